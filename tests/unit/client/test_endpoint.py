"""Where a service is, what stands in between, and what is said when nobody answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from qllm import AsyncClient, Client, Unavailable, Unreachable
from qllm.client.hints import proxy_in_between

from tests.unit.client.fake_service import FakeService

NOBODY = "127.0.0.1:1"
PROXY = "http://user:secret@127.0.0.1:1"


@asynccontextmanager
async def server_that_says(words: bytes) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def refusal_at(address: str) -> str:
    async with AsyncClient(address, timeout_s=30) as client:
        with pytest.raises(Unreachable) as refusal:
            await client.health()
        with pytest.raises(Unreachable):
            await client.generate("hello", timeout_s=30).collect()
    return str(refusal.value)


async def test_nobody_at_an_address_is_said_with_the_address() -> None:
    refusal = await refusal_at(NOBODY)
    assert refusal.startswith("no service answers at 127.0.0.1:1: ")
    assert refusal.endswith("; start one with `qllm-scheduler --model DIR --spawn-worker`")


async def test_an_http_server_is_known_as_one() -> None:
    async with server_that_says(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n") as address:
        refusal = await refusal_at(address)
    assert refusal == (
        f"no service answers at {address}: that is an HTTP port; gRPC is on another one, which qllm-scheduler calls "
        "--grpc-port: 50051 unless it was told otherwise"
    )


async def test_another_server_is_said_not_to_speak_grpc() -> None:
    async with server_that_says(b"SSH-2.0-OpenSSH_9.9\r\n") as address:
        refusal = await refusal_at(address)
    assert refusal == f"no service answers at {address}: what listens there does not speak gRPC"


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
async def test_this_machine_is_reached_without_a_proxy(
    service: FakeService, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, PROXY)
    async with AsyncClient(service.address) as client:
        assert await client.health()
    assert await asyncio.to_thread(synchronous_health, service.address)
    assert "proxy" not in await refusal_at(NOBODY)


def synchronous_health(address: str) -> bool:
    with Client(address) as client:
        return client.health()


async def test_a_proxy_in_between_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    refusal = await refusal_at("192.0.2.1:50051")
    assert refusal.startswith("no service answers at 192.0.2.1:50051: ")
    assert "through the proxy 127.0.0.1:1, which the environment's http_proxy names" in refusal
    assert "secret" not in refusal


@pytest.mark.parametrize("proxy", ["http://p:abc", "http://p:99999", "http://[bad", "nonsense"])
def test_a_proxy_that_makes_no_sense_is_said_to(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    assert "through the proxy one that cannot be read" in proxy_in_between("192.0.2.1:50051")


@pytest.mark.parametrize("exempt", ["192.0.2.1", "10.0.0.1,192.0.2.1", "*"])
def test_a_proxy_that_is_not_used_is_not_named(exempt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("no_proxy", exempt)
    assert proxy_in_between("192.0.2.1:50051") == ""


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:99999", ""])
async def test_what_is_no_address_is_refused_when_the_client_is_made(address: str) -> None:
    with pytest.raises(ValueError, match="allowed are HOST:PORT"):
        AsyncClient(address)
    with pytest.raises(ValueError, match="allowed are HOST:PORT"):
        Client(address)


async def test_a_service_that_refuses_is_not_taken_for_none(service: FakeService) -> None:
    async with AsyncClient(service.address) as client:
        with pytest.raises(Unavailable) as refusal:
            await client.generate("fail UNAVAILABLE").collect()
    assert not isinstance(refusal.value, Unreachable)
    assert str(refusal.value) == "because it was asked to"
