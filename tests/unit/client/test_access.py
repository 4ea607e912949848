"""What a client is given to be let in is judged when it is made, and commands take it before or after their name."""

from pathlib import Path

import pytest
from qllm import AccessRefused, AsyncClient, Client

from tests.support.security.certificates import Authority
from tests.unit.client.fake_service import FakeService
from tests.unit.client.in_process import run_here

NOWHERE = "127.0.0.1:1"


@pytest.mark.parametrize("key", ["", "two words", "ü", "line\nbreak"])
async def test_a_key_that_can_not_be_sent_is_refused(key: str) -> None:
    with pytest.raises(AccessRefused, match="--api-key: allowed are printable ASCII characters"):
        AsyncClient(NOWHERE, api_key=key)
    with pytest.raises(AccessRefused):
        Client(NOWHERE, api_key=key)


@pytest.mark.parametrize("address", ["192.0.2.7:50051", "scheduler:50051", "dns:///scheduler:50051"])
async def test_a_key_is_sent_to_another_machine_in_the_clear_only_if_somebody_says_so(
    address: str, tmp_path: Path
) -> None:
    with pytest.raises(AccessRefused, match="--api-key: it would be sent to another machine in the clear"):
        AsyncClient(address, api_key="mine")
    authority = Authority(tmp_path, "ca")
    for access in ({"insecure": True}, {"tls_ca": authority.cert}):
        async with AsyncClient(address, api_key="mine", **access):  # type: ignore[arg-type]
            pass
    async with AsyncClient(address):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/qllm/api"])
async def test_a_key_may_be_sent_within_this_machine(address: str) -> None:
    async with AsyncClient(address, api_key="mine"):
        pass


async def test_a_command_refuses_to_send_a_key_in_the_clear(tmp_path: Path) -> None:
    for words in (("stats", "--address", "192.0.2.7:1"), ("bench", "--http", "http://192.0.2.7:1", "--seconds", "1")):
        finished = await run_here(*words, QLLM_API_KEY="mine")
        assert finished.code == 2
        assert "it would be sent to another machine in the clear" in " ".join(finished.err.split())


async def test_files_that_can_not_be_used_are_refused_by_their_option(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("client")
    with pytest.raises(AccessRefused, match=r"--tls-ca: got .*nothing, which can't be read: No such file"):
        AsyncClient(NOWHERE, tls_ca=tmp_path / "nothing")
    with pytest.raises(AccessRefused, match=r"--tls-ca: got .*key, allowed is a file with certificates in PEM"):
        AsyncClient(NOWHERE, tls_ca=pair.key)
    with pytest.raises(AccessRefused, match=r"--tls-key: got .*pem, allowed is a file with a private key in PEM"):
        AsyncClient(NOWHERE, tls_ca=authority.cert, tls_cert=pair.cert, tls_key=pair.cert)


async def test_options_that_need_each_other_are_refused_alone(tmp_path: Path) -> None:
    with pytest.raises(AccessRefused, match="needs both --tls-cert and --tls-key"):
        AsyncClient(NOWHERE, tls_ca=tmp_path, tls_cert=tmp_path)
    with pytest.raises(AccessRefused, match="--tls-cert goes with --tls-ca"):
        AsyncClient(NOWHERE, tls_cert=tmp_path, tls_key=tmp_path)


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (("generate", "hello", "--max-tokens", "1", "--api-key", "mine"), {}),
        (("--api-key", "mine", "generate", "--max-tokens", "1", "hello"), {}),
        (("--api-key", "other", "generate", "--max-tokens", "1", "hello", "--api-key", "mine"), {}),
        (("generate", "--max-tokens", "1", "hello"), {"QLLM_API_KEY": "mine"}),
    ],
)
async def test_a_command_sends_the_key_that_stands_nearest(
    service: FakeService, words: tuple[str, ...], environment: dict[str, str]
) -> None:
    finished = await run_here(*words, QLLM_ADDRESS=service.address, **environment)
    assert (finished.code, finished.err) == (0, "")
    assert service.authorizations == ["Bearer mine"]


async def test_a_command_without_a_key_sends_none(service: FakeService) -> None:
    assert (await run_here("generate", "--max-tokens", "1", "hello", QLLM_ADDRESS=service.address)).code == 0
    assert service.authorizations == [None]


async def test_a_command_refuses_what_can_not_be_used_in_one_line(service: FakeService, tmp_path: Path) -> None:
    for command in ("health", "stats"):
        finished = await run_here(command, "--tls-ca", str(tmp_path / "nothing"), QLLM_ADDRESS=service.address)
        assert finished.code == 2
        assert finished.err.count("\n") == 1
        assert finished.err.startswith(f"qllm-client: --tls-ca: got {tmp_path / 'nothing'}, which can't be read")


async def test_a_command_that_needs_a_key_says_where_to_give_it(service: FakeService) -> None:
    finished = await run_here("generate", "fail UNAUTHENTICATED", QLLM_ADDRESS=service.address)
    assert finished.code == 1
    assert finished.err.startswith("qllm-client: UNAUTHENTICATED: because it was asked to (give it with --api-key KEY")
