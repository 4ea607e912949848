"""Streams outlive the worker: killed, stopped, replaced or poisoned, what it ran goes on where it was."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from qllm.v1 import admin_pb2, admin_pb2_grpc
from qllm.v1 import inference_pb2 as pb

from tests.support.channel.control_channel import ROOT, ipc_endpoint, python_path
from tests.support.service.live_service import LiveService, free_port, start_service
from tests.support.service.mortal_worker import POISON
from tests.support.service.simulated_worker import INSTANT, slow_worker

MODEL = ROOT / "demo" / "model"
LONG_S = 300.0
NUM_STREAMS = 16


def request(number: int, max_tokens: int, *, seed: int | None = None) -> pb.GenerateRequest:
    """One of both classes, by turns; greedy without a seed."""
    sampling = pb.SamplingParams(temperature=0) if seed is None else pb.SamplingParams(temperature=1, seed=seed)
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=range(10 + number, 50 + 2 * number)),
        request_class=pb.REQUEST_CLASS_BEST_EFFORT if number % 2 else pb.REQUEST_CLASS_LATENCY_SENSITIVE,
        sampling=sampling,
        stop=pb.StopConditions(max_tokens=max_tokens, ignore_eos=True),
    )


def requests(max_tokens: int) -> list[pb.GenerateRequest]:
    return [request(n, max_tokens, seed=n if n % 3 == 0 else None) for n in range(NUM_STREAMS)]


def tokens_of(service: LiveService, channel: grpc.Channel, asked: pb.GenerateRequest, started: list[int]) -> list[int]:
    """Reads a stream to its end; each message must follow the one before it. Notes each message in `started`."""
    token_ids: list[int] = []
    for number, message in enumerate(service.inference(channel).Generate(asked, timeout=LONG_S)):
        assert message.sequence_number == number
        token_ids += message.token_ids
        started.append(number)
    return token_ids


def all_tokens(service: LiveService, asked: list[pb.GenerateRequest], started: list[int]) -> list[list[int]]:
    with service.channel() as channel, ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda one: tokens_of(service, channel, one, started), asked))


def until(is_true: Callable[[], object]) -> float:
    """Waits for what another process does; returns for how long, in seconds."""
    began_s = time.monotonic()
    while not is_true():
        assert time.monotonic() - began_s < LONG_S
        time.sleep(0.01)
    return time.monotonic() - began_s


def streams_over(service: LiveService, asked: list[pb.GenerateRequest], blow: Callable[[], object]) -> list[list[int]]:
    """Returns the tokens of streams into which `blow` falls once some have begun."""
    started: list[int] = []
    results: list[list[list[int]]] = []
    reader = threading.Thread(target=lambda: results.append(all_tokens(service, asked, started)))
    reader.start()
    until(lambda: len(started) > len(asked))
    blow()
    reader.join(LONG_S)
    assert results, service.log.read_text()[-4000:]
    return results[0]


def handover(service: LiveService) -> None:
    with service.channel() as channel:
        admin_pb2_grpc.AdminServiceStub(channel).Handover(admin_pb2.HandoverRequest(), timeout=60)


# ---- the real model


@pytest.mark.slow
def test_streams_of_a_killed_worker_go_on_with_the_same_tokens(tmp_path: Path) -> None:
    with start_service(MODEL, tmp_path / "log") as service:
        asked = requests(60)
        expected = all_tokens(service, asked, [])
        epoch = service.info().worker_epoch
        assert streams_over(service, asked, lambda: os.kill(service.worker_pid(), signal.SIGKILL)) == expected
        assert service.info().worker_epoch != epoch
        loads = service.loads()
        assert loads.free_blocks == loads.total_blocks


# ---- simulated workers, whose tokens depend on all tokens before them


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service with a worker that stands by."""
    directory = tmp_path_factory.mktemp("pair")
    worker = slow_worker(directory)
    with start_service(MODEL, directory / "log", "--standby", "1", worker_options=worker) as service:
        yield service


def has_standby(service: LiveService) -> bool:
    log = service.log.read_text()
    return log.count("worker_waits") >= log.count("worker_joined")


@pytest.mark.parametrize("blow", ["kill", "stop", "hand over"])
def test_a_standby_takes_over_and_no_stream_notices(pair: LiveService, blow: str) -> None:
    asked = requests(6)
    expected = all_tokens(pair, asked, [])
    until(lambda: has_standby(pair))
    before = pair.info().worker_epoch
    pid = serving_pid(pair)

    def strike() -> None:
        if blow == "hand over":
            handover(pair)
        else:
            os.kill(pid, signal.SIGKILL if blow == "kill" else signal.SIGSTOP)

    assert streams_over(pair, asked, strike) == expected
    assert pair.info().worker_epoch != before
    assert serving_pid(pair) != pid


def serving_pid(service: LiveService) -> int:
    line = [line for line in service.log.read_text().splitlines() if "worker_ready" in line][-1]
    return int(line.rpartition(" pid=")[2].split()[0])


def test_without_a_standby_there_is_nothing_to_hand_over_to(free: LiveService) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        handover(free)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "--standby 1" in refused.value.details()


# ---- a request that kills


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[LiveService]:
    """A service whose workers die of a token, and are started again by somebody else."""
    port, log = free_port(), tmp_path / "log"
    over = threading.Event()
    with ipc_endpoint() as endpoint:
        options = ("--control-endpoint", endpoint)
        command = [sys.executable, "-m", "scheduler_svc", *options, "--grpc-port", str(port)]
        worker = [
            sys.executable,
            "-m",
            "tests.support.service.mortal_worker",
            *options,
            "--model",
            str(MODEL),
            *INSTANT,
        ]

        def keep_a_worker() -> None:
            while not over.is_set():
                with subprocess.Popen(worker, cwd=ROOT, env=python_path(), stderr=subprocess.DEVNULL) as process:
                    while process.poll() is None and not over.is_set():
                        time.sleep(0.02)
                    process.kill()

        keeper = threading.Thread(target=keep_a_worker)
        with log.open("wb") as sink, subprocess.Popen(command, cwd=ROOT, env=python_path(), stderr=sink) as scheduler:
            keeper.start()
            service = LiveService(scheduler, f"127.0.0.1:{port}", log)
            service.wait_until_serving()
            yield service
            over.set()
            keeper.join()
            scheduler.terminate()


def test_a_request_that_kills_every_worker_ends_with_a_clear_error_and_its_neighbours_live(mortal: LiveService) -> None:
    neighbours = requests(30)[: NUM_STREAMS // 2]
    poisoned = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[7, POISON, 9]), stop=pb.StopConditions(max_tokens=3))
    expected = all_tokens(mortal, neighbours, [])
    with mortal.channel() as channel:
        killer = mortal.inference(channel).Generate(poisoned, timeout=LONG_S)
        assert all_tokens(mortal, neighbours, []) == expected
        with pytest.raises(grpc.RpcError) as ended:
            list(killer)
    assert ended.value.code() is grpc.StatusCode.INTERNAL
    assert "died 2 times while it ran this request and no other" in ended.value.details()
    assert mortal.log.read_text().count("worker_lost") <= 3
