"""A real service with TLS and API keys: tenants meet nowhere, and strangers get nowhere."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import openai
import pytest
from qllm import AsyncClient, Client, QllmError, Unauthenticated

from tests.support.channel.control_channel import ROOT, python_path
from tests.support.security.api_keys import bearer, entry, write_keys
from tests.support.security.certificates import Authority
from tests.support.service.live_service import LiveService, free_port, start_service
from tests.support.service.simulated_worker import slow_worker

MODEL = ROOT / "demo" / "model"
PROMPT = "def add(a, b):\n    return a + b\n" * 20
A, B = entry("a", "key-a"), entry("b", "key-b")


@dataclass
class SecuredService:
    """A service, and what its clients need to be let in."""

    live: LiveService
    ca: Path
    keys: Path
    http_address: str

    def sdk(self, key: str) -> openai.OpenAI:
        """OpenAI's own client, unmodified."""
        http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=self.ca))
        return openai.OpenAI(base_url=f"https://{self.http_address}/v1", api_key=key, max_retries=0, http_client=http)

    def client(self, key: str | None) -> Client:
        return Client(self.live.grpc_address, tls_ca=self.ca, api_key=key)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredService]:
    """Iterations take some 150 ms."""
    directory = tmp_path_factory.mktemp("secured")
    authority = Authority(directory, "ca")
    pair = authority.issue("server")
    keys = write_keys(directory / "keys.toml", A, B)
    port = free_port()
    options = {"--tls-cert": pair.cert, "--tls-key": pair.key, "--api-keys": keys, "--http-port": port}
    options["--state-dir"] = directory / "state"
    words = [str(word) for option in options.items() for word in option]
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
    with start_service(
        MODEL,
        directory / "log",
        *words,
        worker_options=slow_worker(directory),
        credentials=credentials,
        metadata=bearer("key-a"),
    ) as live:
        yield SecuredService(live, authority.cert, keys, f"127.0.0.1:{port}")


def num_cached(service: SecuredService, key: str) -> int:
    with service.client(key) as client:
        return client.generate(PROMPT, max_tokens=1).collect().usage.cached_tokens


def test_tenants_of_a_real_service_share_no_prefix(service: SecuredService) -> None:
    assert num_cached(service, "key-a") == 0
    assert num_cached(service, "key-a") > 0
    assert num_cached(service, "key-b") == 0
    assert num_cached(service, "key-b") > 0


async def test_a_tenant_of_a_real_service_can_not_abort_what_is_anothers(service: SecuredService) -> None:
    address, ca = service.live.grpc_address, service.ca
    async with (
        AsyncClient(address, tls_ca=ca, api_key="key-a") as one,
        AsyncClient(address, tls_ca=ca, api_key="key-b") as other,
    ):
        stream = one.generate("hello", max_tokens=200, request_id="mine", ignore_eos=True)
        deltas = aiter(stream)
        await anext(deltas)
        assert not await other.abort("mine")
        await anext(deltas)
        theirs = other.generate("hello", max_tokens=1, request_id="mine")
        assert (await theirs.collect()).token_ids
        assert await one.abort("mine")
        async for _ in deltas:
            pass
        assert stream.result.finish_reason == "aborted"


def test_a_key_counts_once_it_stands_in_the_file_and_no_longer_than_that(service: SecuredService) -> None:
    with service.client("key-new") as client:
        with pytest.raises(Unauthenticated):
            client.server_info()
        write_keys(service.keys, A, B, entry("new", "key-new"))
        wait_until(lambda: is_let_in(client))
        write_keys(service.keys, A, B)
        wait_until(lambda: not is_let_in(client))


def is_let_in(client: Client) -> bool:
    try:
        client.server_info()
    except Unauthenticated:
        return False
    return True


def wait_until(holds: object) -> None:
    deadline_s = time.monotonic() + 60
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_commands_are_let_in_by_what_the_environment_says(service: SecuredService) -> None:
    command = [sys.executable, "-m", "qllm.client", "generate", "--max-tokens", "2", "hello"]
    access = {"QLLM_ADDRESS": service.live.grpc_address, "QLLM_TLS_CA": str(service.ca)}
    for key, code in (("key-a", 0), ("nobody's", 1)):
        environment = {**python_path(), **access, "QLLM_API_KEY": key}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == code, done.stderr
    assert done.stderr.startswith("qllm-client: UNAUTHENTICATED: the API key is not known to this service")
    assert "nobody" not in service.live.log.read_text()


LINE = {
    "custom_id": "one",
    "method": "POST",
    "url": "/v1/completions",
    "body": {"prompt": PROMPT, "max_tokens": 2, "ignore_eos": True},
}


def test_files_and_batches_of_the_openai_sdk_work_and_are_their_tenants_alone(service: SecuredService) -> None:
    with service.sdk("key-a") as own, service.sdk("key-b") as other:
        file = own.files.create(file=("in.jsonl", json.dumps(LINE).encode()), purpose="batch")
        batch = own.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
        wait_until(lambda: own.batches.retrieve(batch.id).status == "completed")
        output_id = own.batches.retrieve(batch.id).output_file_id
        assert output_id is not None
        (answer,) = map(json.loads, own.files.content(output_id).text.splitlines())
        assert answer["response"]["body"]["usage"]["completion_tokens"] == 2
        ids = [file.id, output_id]
        for read in (other.files.retrieve, other.files.content):
            for file_id in ids:
                with pytest.raises(openai.NotFoundError):
                    read(file_id)
        with pytest.raises(openai.NotFoundError):
            other.files.delete(file.id)
        for ask in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                ask(batch.id)
        with pytest.raises(openai.BadRequestError, match="input_file_id"):
            other.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
        with pytest.raises(openai.NotFoundError):
            other.batches.list(after=batch.id)
        with pytest.raises(openai.NotFoundError):
            other.files.list(after=file.id)
        assert (other.files.list().data, other.batches.list().data) == ([], [])
        over_grpc_nobody_sees_more(service, batch.id)
        assert [one.id for one in own.files.list()] == [file.id]


def over_grpc_nobody_sees_more(service: SecuredService, batch_id: str) -> None:
    with service.client("key-b") as client:
        for ask in (client.get_batch, client.cancel_batch, lambda one: list(client.batch_results(one))):
            with pytest.raises(QllmError, match="batch_id: got"):
                ask(batch_id)
        assert client.list_batches().batches == ()


BENCH = (
    "--seconds 0.5 --warm-up 0 --idle-requests 1 --ls-rate 4 --be-clients 1 --ls-prompt-tokens 4 --ls-max-tokens 1 "
    "--be-prompt-tokens 4 --be-max-tokens 1 --drain 100"
)


@pytest.mark.parametrize("protocol", ["--grpc", "--http"])
def test_a_secured_service_is_measured_and_no_result_holds_the_key(
    service: SecuredService, tmp_path: Path, protocol: str
) -> None:
    server = service.live.grpc_address if protocol == "--grpc" else f"https://{service.http_address}"
    file = tmp_path / "result.json"
    words = ["bench", protocol, server, "--tls-ca", str(service.ca), "--api-key", "key-a", *BENCH.split()]
    command = [sys.executable, "-m", "qllm.client", *words, "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, env=python_path(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    written = file.read_text()
    assert json.loads(written)["summary"]["ls"]["num_done"] > 0
    assert "--api-key" in written
    assert "key-a" not in written


def test_strangers_who_do_not_speak_tls_write_nothing_into_the_log(service: SecuredService) -> None:
    before = service.live.log.read_text()
    for address in (service.live.grpc_address, service.http_address):
        host, _, port = address.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                stranger.recv(100)
    assert service.live.log.read_text() == before


def test_what_strangers_can_reach_is_refused_at_the_start() -> None:
    words = ("--grpc-port", "0", "--http-port", "0", "--http-host", "0.0.0.0")
    command = [sys.executable, "-m", "scheduler_svc", "--model", str(MODEL), "--spawn-worker", *words]
    done = subprocess.run(command, cwd=ROOT, env=python_path(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.startswith("qllm-scheduler: --http-host: got 0.0.0.0:0, which other machines can reach; give ")
    assert "--insecure" in done.stderr
    assert done.stderr.count(os.linesep) == 1
