"""Streams outlive the worker: killed, stopped, replaced or poisoned, what it ran goes on where it was."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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
from tests.support.service.streams import LONG_S, NUM_STREAMS, all_tokens, request, requests, streams_over, until

MODEL = ROOT / "demo" / "model"


def handover(service: LiveService) -> None:
    with service.channel() as channel:
        admin_pb2_grpc.AdminServiceStub(channel).Handover(admin_pb2.HandoverRequest(), timeout=60)


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


def search(number: int) -> pb.GenerateRequest:
    """One of both classes, by turns."""
    asked = request(number, 8)
    asked.sampling.Clear()
    asked.beam_search.CopyFrom(pb.BeamSearch(beam_width=3, num_returned=3))
    return asked


def found(service: LiveService, asked: list[pb.GenerateRequest]) -> list[list[tuple[list[int], float]]]:
    def texts(channel: grpc.Channel, one: pb.GenerateRequest) -> list[tuple[list[int], float]]:
        (message,) = service.inference(channel).Generate(one, timeout=LONG_S)
        return [(list(text.token_ids), text.score) for text in message.hypotheses]

    with service.channel() as channel, ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda one: texts(channel, one), asked))


def test_searches_of_a_killed_worker_find_the_same_texts(pair: LiveService) -> None:
    searches, streams = [search(number) for number in range(4)], requests(6)[:2]
    expected = found(pair, searches)
    assert all(len({tuple(tokens) for tokens, _ in texts}) == 3 for texts in expected)
    until(lambda: has_standby(pair))
    before = pair.info().worker_epoch
    pid = serving_pid(pair)
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(found, pair, searches)
        streams_over(pair, streams, lambda: os.kill(pid, signal.SIGKILL))
        assert again.result(LONG_S) == expected
    assert pair.info().worker_epoch != before
    loads = pair.loads()
    assert loads.free_blocks == loads.total_blocks


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
