"""Two workers at one scheduler, as real processes: one serves, the other waits for its place."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from qllm.v1 import inference_pb2 as pb

from tests.support.channel.control_channel import LONG_S, ROOT, ipc_endpoint, python_path
from tests.support.service.live_service import LiveService, free_port

MODEL = ROOT / "demo" / "model"
NUM_STREAMS = 6
Process = subprocess.Popen[bytes]


def until(is_true: Callable[[], object]) -> None:
    """Waits for what another process does."""
    pause = threading.Event()
    for _ in range(int(2 * LONG_S / 0.02)):
        if is_true():
            return
        pause.wait(0.02)
    raise AssertionError("it did not happen")


@contextmanager
def process(log: Path, module: str, *arguments: str) -> Iterator[Process]:
    command = [sys.executable, "-m", module, *arguments]
    with log.open("wb") as sink, subprocess.Popen(command, cwd=ROOT, env=python_path(), stderr=sink) as running:
        try:
            yield running
        finally:
            running.kill()


def request(max_tokens: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=range(20, 60)),
        request_class=pb.REQUEST_CLASS_LATENCY_SENSITIVE,
        sampling=pb.SamplingParams(temperature=0),
        stop=pb.StopConditions(max_tokens=max_tokens),
    )


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ipc_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def service(endpoint: str, tmp_path: Path) -> Iterator[LiveService]:
    port, log = free_port(), tmp_path / "scheduler.log"
    with process(log, "scheduler_svc", "--control-endpoint", endpoint, "--grpc-port", str(port)) as scheduler:
        yield LiveService(scheduler, f"127.0.0.1:{port}", log)


def worker(endpoint: str, log: Path) -> AbstractContextManager[Process]:
    return process(log, "gpu_worker", "--control-endpoint", endpoint, "--model", str(MODEL), "--simulated", "zero")


def test_a_second_worker_costs_the_first_no_request_and_takes_over_when_it_is_killed(
    service: LiveService, endpoint: str, tmp_path: Path
) -> None:
    first_log, second_log = tmp_path / "first.log", tmp_path / "second.log"
    with worker(endpoint, first_log) as first, service.channel() as channel:
        service.wait_until_serving()
        stub = service.inference(channel)
        streams = [stub.Generate(request(400), timeout=LONG_S) for _ in range(NUM_STREAMS)]
        beginnings = [next(stream) for stream in streams]
        with worker(endpoint, second_log) as second:
            until(lambda: "reason=" in second_log.read_text())
            for beginning, stream in zip(beginnings, streams, strict=True):
                messages = [beginning, *stream]
                assert sum(len(message.token_ids) for message in messages) == 400
                assert messages[-1].finish.reason == pb.FINISH_REASON_LENGTH
            assert "requests_ended" not in service.log.read_text()
            assert second.poll() is None
            first.kill()
            until(lambda: f"pid={second.pid} model=" in service.log.read_text())
            service.wait_until_serving()
            assert sum(len(message.token_ids) for message in stub.Generate(request(5), timeout=LONG_S)) == 5
    assert first_log.read_text().count("joined") == 1
    assert second_log.read_text().count("waiting endpoint") == 1
