"""Both front ends speak TLS, and let in whom the certificates say."""

import asyncio
import ssl
import warnings
from pathlib import Path

import httpx2
import pytest
from qllm import AsyncClient, PermissionDenied, QllmError, Unauthenticated, Unavailable, Unreachable

from scheduler_svc.api.openai.connections.limits import HttpLimits
from scheduler_svc.api.openai.connections.tls_entrance import MOST_BEGINNING
from scheduler_svc.security.tls import TlsFiles
from tests.support.security.api_keys import entry, gate_of
from tests.support.security.certificates import Authority, Pair
from tests.support.service.api_service import running
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import running_http


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def server(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture
def stranger(tmp_path: Path) -> tuple[Authority, Pair]:
    """An authority that nobody trusts, and a client's certificate from it."""
    (tmp_path / "strange").mkdir()
    authority = Authority(tmp_path / "strange", "ca")
    return authority, authority.issue("client")


async def refusal(address: str, **access: object) -> QllmError:
    async with AsyncClient(address, timeout_s=10, **access) as client:  # type: ignore[arg-type]
        with pytest.raises(QllmError) as refused:
            await client.health()
    return refused.value


async def test_grpc_over_tls_serves_who_trusts_its_certificate(authority: Authority, server: Pair) -> None:
    async with (
        running(FakeGenerator(), tls=TlsFiles(server.cert, server.key)) as service,
        AsyncClient(service.server.address, tls_ca=authority.cert) as client,
    ):
        assert await client.health()
        assert (await client.generate("hello", max_tokens=2).collect()).token_ids


async def test_a_client_without_tls_is_told_to_speak_it(server: Pair) -> None:
    async with running(FakeGenerator(), tls=TlsFiles(server.cert, server.key)) as service:
        refused = await refusal(service.server.address)
    assert isinstance(refused, Unreachable)
    assert "if it speaks TLS, give --tls-ca" in str(refused)


async def test_a_client_with_tls_is_told_that_the_service_speaks_none(authority: Authority) -> None:
    async with running(FakeGenerator()) as service:
        refused = await refusal(service.server.address, tls_ca=authority.cert)
    assert isinstance(refused, Unreachable)
    assert "it does not speak TLS; leave --tls-ca out" in str(refused)


@pytest.mark.parametrize("name", ["ca", "another"])
async def test_a_service_that_is_not_trusted_is_refused(server: Pair, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    trusted = Authority(tmp_path / "elsewhere", name)
    async with running(FakeGenerator(), tls=TlsFiles(server.cert, server.key)) as service:
        refused = await refusal(service.server.address, tls_ca=trusted.cert)
    assert isinstance(refused, Unreachable)
    assert "its certificate does not come from those of --tls-ca" in str(refused)


async def test_a_service_of_another_name_is_refused(authority: Authority) -> None:
    elsewhere = authority.issue("elsewhere", "192.0.2.7")
    async with running(FakeGenerator(), tls=TlsFiles(elsewhere.cert, elsewhere.key)) as service:
        refused = await refusal(service.server.address, tls_ca=authority.cert)
    assert "its certificate is for another host than this address names" in str(refused)


async def test_mutual_tls_over_grpc_lets_in_certificates_of_its_authority_and_no_other(
    authority: Authority, server: Pair, stranger: tuple[Authority, Pair]
) -> None:
    own, strange = authority.issue("client"), stranger[1]
    async with running(FakeGenerator(), tls=TlsFiles(server.cert, server.key, authority.cert)) as service:
        address = service.server.address
        async with AsyncClient(address, tls_ca=authority.cert, tls_cert=own.cert, tls_key=own.key) as client:
            assert await client.health()
        for access in ({}, {"tls_cert": strange.cert, "tls_key": strange.key}):
            refused = await refusal(address, tls_ca=authority.cert, **access)
            assert isinstance(refused, Unavailable)
            assert "--tls-cert" in str(refused)


async def test_mutual_tls_over_http_lets_in_certificates_of_its_authority_and_no_other(
    authority: Authority, server: Pair, stranger: tuple[Authority, Pair]
) -> None:
    own, strange = authority.issue("client"), stranger[1]
    async with running_http(FakeGenerator(), tls=TlsFiles(server.cert, server.key, authority.cert)) as service:
        url = f"https://{service.server.address}/health"
        assert (await https_get(url, authority, own)).status_code == 200
        for pair in (None, strange):
            with pytest.raises(httpx2.TransportError):
                await https_get(url, authority, pair)
        with pytest.raises(httpx2.TransportError):
            await service.http.get("/health")  # plainly


async def test_http_over_tls_tells_clients_why_they_are_refused(authority: Authority, server: Pair) -> None:
    limits = HttpLimits(header_timeout_s=0.2)
    async with running_http(FakeGenerator(), tls=TlsFiles(server.cert, server.key), limits=limits) as service:
        context = ssl.create_default_context(cafile=str(authority.cert))
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port, ssl=context)
        writer.write(b"no HTTP at all\r\n\r\n")
        async with asyncio.timeout(20):
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_a_client_that_never_begins_tls_is_cut_off(server: Pair) -> None:
    limits = HttpLimits(header_timeout_s=0.2)
    async with running_http(FakeGenerator(), tls=TlsFiles(server.cert, server.key), limits=limits) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_silent_clients_keep_nobody_from_tls(authority: Authority, server: Pair) -> None:
    async with running_http(FakeGenerator(), tls=TlsFiles(server.cert, server.key)) as service:
        silent = [await asyncio.open_connection("127.0.0.1", service.server.port) for _ in range(MOST_BEGINNING + 20)]
        response = await https_get(f"https://{service.server.address}/health", authority, None)
        assert response.status_code == 200
        async with asyncio.timeout(20):
            for reader, _ in silent[:20]:  # the oldest gave way
                assert await reader.read() == b""
        for _, writer in silent:
            writer.close()


async def test_an_api_key_goes_with_every_call_of_a_client(authority: Authority, server: Pair, tmp_path: Path) -> None:
    gate = gate_of(tmp_path / "keys.toml", entry("a", "key-a", ["generate", "observe"]), entry("b", "key-b"))
    generator = FakeGenerator()
    async with running(generator, gate=gate, tls=TlsFiles(server.cert, server.key)) as service:
        address = service.server.address
        async with AsyncClient(address, tls_ca=authority.cert, api_key="key-a") as client:
            assert await client.health()
            assert await client.loads()
            assert await client.server_info()
            assert not await client.abort("nobody's")
            assert (await client.generate("hello", max_tokens=2).collect()).token_ids
        async with AsyncClient(address, tls_ca=authority.cert, api_key="key-b") as client:
            with pytest.raises(PermissionDenied, match="needs the permission 'observe'"):
                await client.loads()
        async with AsyncClient(address, tls_ca=authority.cert) as client:
            with pytest.raises(Unauthenticated, match="needs an API key"):
                await client.generate("hello").collect()
    assert [one.tenant for one in generator.submitted] == ["a"]


async def test_a_stream_with_a_key_is_cancelled_as_one_without(tmp_path: Path) -> None:
    generator = FakeGenerator(hold_after=1)
    gate = gate_of(tmp_path / "keys.toml", entry("a", "key-a"))
    async with (
        running(generator, gate=gate) as service,
        AsyncClient(service.server.address, api_key="key-a") as client,
    ):
        async with client.generate("hello", max_tokens=9) as stream:
            async for _ in stream:
                break
        async with asyncio.timeout(20):
            while generator.live:  # noqa: ASYNC110  (the fake has no event for it)
                await asyncio.sleep(0.005)
    assert len(generator.closed_early) == 1


async def https_get(url: str, authority: Authority, pair: Pair | None) -> httpx2.Response:
    context = ssl.create_default_context(cafile=str(authority.cert))
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    async with httpx2.AsyncClient(verify=context, timeout=20) as http:
        return await http.get(url)


def replace(files: TlsFiles, pair: Pair) -> None:
    """Puts another certificate and its key in the place of those that a server shows."""
    pair.cert.replace(files.cert)
    pair.key.replace(files.key)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has files looked at for each client that connects."""
    monkeypatch.setattr("scheduler_svc.security.watched_files.CHECK_INTERVAL_S", 0.0)


@pytest.mark.usefixtures("unhurried")
async def test_a_new_certificate_is_shown_over_grpc_without_a_restart(authority: Authority, server: Pair) -> None:
    files = TlsFiles(server.cert, server.key)
    first = authority.issue("first", "192.0.2.7")
    replace(files, first)
    async with running(FakeGenerator(), tls=files) as service:
        address = service.server.address
        refused = await refusal(address, tls_ca=authority.cert)
        assert "its certificate is for another host than this address names" in str(refused)
        replace(files, authority.issue("second"))
        async with AsyncClient(address, tls_ca=authority.cert) as client:
            assert await client.health()


@pytest.mark.usefixtures("unhurried")
async def test_a_new_certificate_is_shown_over_http_without_a_restart(authority: Authority, server: Pair) -> None:
    files = TlsFiles(server.cert, server.key)
    replace(files, authority.issue("first", "192.0.2.7"))
    async with running_http(FakeGenerator(), tls=files) as service:
        url = f"https://{service.server.address}/health"
        with pytest.raises(httpx2.TransportError, match="IP address mismatch"):
            await https_get(url, authority, None)
        replace(files, authority.issue("second"))
        assert (await https_get(url, authority, None)).status_code == 200


@pytest.mark.usefixtures("unhurried")
async def test_connections_that_are_open_outlive_a_new_certificate(authority: Authority, server: Pair) -> None:
    files = TlsFiles(server.cert, server.key)
    async with (
        running(FakeGenerator(), tls=files) as service,
        AsyncClient(service.server.address, tls_ca=authority.cert) as client,
    ):
        assert await client.health()
        replace(files, authority.issue("second", "192.0.2.7"))
        assert await client.health()


@pytest.mark.usefixtures("unhurried")
async def test_a_certificate_that_does_not_serve_leaves_the_one_of_before(
    authority: Authority, server: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    files = TlsFiles(server.cert, server.key)
    async with (
        running(FakeGenerator(), tls=files) as over_grpc,
        running_http(FakeGenerator(), tls=files) as over_http,
    ):
        authority.issue("other").cert.replace(files.cert)  # its key is not there yet
        async with AsyncClient(over_grpc.server.address, tls_ca=authority.cert) as client:
            assert await client.health()
        url = f"https://{over_http.server.address}/health"
        assert (await https_get(url, authority, None)).status_code == 200
    assert "certificates_kept" in caplog.text


@pytest.mark.usefixtures("unhurried")
async def test_an_authority_of_clients_that_is_replaced_lets_in_its_own_and_no_longer_the_others(
    authority: Authority, server: Pair, stranger: tuple[Authority, Pair]
) -> None:
    own, (others, theirs) = authority.issue("client"), stranger
    client_ca = authority.cert.with_name("clients.pem")
    client_ca.write_bytes(authority.cert.read_bytes())
    async with running(FakeGenerator(), tls=TlsFiles(server.cert, server.key, client_ca)) as service:
        address, ca = service.server.address, authority.cert
        assert isinstance(await refusal(address, tls_ca=ca, tls_cert=theirs.cert, tls_key=theirs.key), Unavailable)
        client_ca.write_bytes(others.cert.read_bytes() + b"\n")
        assert isinstance(await refusal(address, tls_ca=ca, tls_cert=own.cert, tls_key=own.key), Unavailable)
        async with AsyncClient(address, tls_ca=ca, tls_cert=theirs.cert, tls_key=theirs.key) as client:
            assert await client.health()


async def begins_tls(port: int, authority: Authority, version: ssl.TLSVersion) -> bool:
    """Tells whether a server speaks a version with a client that speaks no other, and cares for no strength."""
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except (ssl.SSLError, ConnectionError):
        return False
    writer.close()
    return True


async def test_neither_server_speaks_a_version_of_tls_that_is_broken(authority: Authority, server: Pair) -> None:
    files = TlsFiles(server.cert, server.key)
    async with running(FakeGenerator(), tls=files) as over_grpc, running_http(FakeGenerator(), tls=files) as over_http:
        for port in (over_grpc.server.port, over_http.server.port):
            assert await begins_tls(port, authority, ssl.TLSVersion.TLSv1_2)
            assert not await begins_tls(port, authority, ssl.TLSVersion.TLSv1_1)
