"""How the service ends when it is told to, and what a service that could not end in good order leaves behind."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from qllm.v1 import admin_pb2, admin_pb2_grpc
from qllm.v1 import inference_pb2 as pb

from tests.support.channel.control_channel import ROOT, python_path
from tests.support.service.live_service import free_port, start_service
from tests.support.service.simulated_worker import INSTANT, slow_worker

MODEL = ROOT / "demo" / "model"
PROMPT = tuple(range(20, 60))
LONG = 1500  # tokens of 150 ms each
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_a_first_signal_lets_requests_end_and_a_second_one_does_not_wait_for_them(
    first: signal.Signals, log: Path, tmp_path: Path
) -> None:
    port = free_port()
    options = ("--http-port", str(port), "--grace-s", "600")
    with start_service(MODEL, log, *options, worker_options=slow_worker(tmp_path)) as service:
        with service.channel() as channel:
            stop = pb.StopConditions(max_tokens=LONG)
            streams = [
                service.inference(channel).Generate(pb.GenerateRequest(token_ids=pb.TokenIds(ids=PROMPT), stop=stop))
                for _ in range(2)
            ]
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            body = json.dumps({"prompt": list(PROMPT), "max_tokens": LONG, "stream": True})
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            for stream in streams:
                next(stream)
            worker_pid = service.worker_pid()
            service.process.send_signal(first)
            for stream in streams:  # tokens go on coming after the service has begun to stop
                deadline_s = time.monotonic() + 60
                while "stopping grace_s" not in log.read_text():
                    assert time.monotonic() < deadline_s
                    time.sleep(0.01)
                next(stream)
            assert service.process.poll() is None
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(60) == 0  # long before the streams or the grace would have ended
            for stream in streams:
                with pytest.raises(grpc.RpcError):
                    list(stream)
            connection.close()
        assert not Path(f"/proc/{worker_pid}").exists()
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("told_by", ["SIGTERM", "Drain"])
def test_a_stopping_service_refuses_new_requests_ends_running_ones_whole_and_exits_0(
    told_by: str, log: Path, tmp_path: Path
) -> None:
    port = free_port()
    options = ("--http-port", str(port), "--grace-s", "600")
    with start_service(MODEL, log, *options, worker_options=slow_worker(tmp_path)) as service:
        with service.channel() as channel:
            inference = service.inference(channel)
            request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=PROMPT), stop=pb.StopConditions(max_tokens=30))
            running = inference.Generate(request)
            next(running)
            if told_by == "Drain":
                drained = admin_pb2_grpc.AdminServiceStub(channel).Drain(admin_pb2.DrainRequest(grace_ms=300_000))
                assert (drained.grace_ms, drained.num_requests) == (300_000, 1)
            else:
                service.process.send_signal(signal.SIGTERM)
            health = health_pb2_grpc.HealthStub(channel)
            deadline_s = time.monotonic() + 60
            while (answer := health.Check(health_pb2.HealthCheckRequest())).status != NOT_SERVING:
                assert time.monotonic() < deadline_s
            assert answer.status == NOT_SERVING
            assert health.Check(health_pb2.HealthCheckRequest(service="live")).status != NOT_SERVING
            with pytest.raises(grpc.RpcError) as refused:
                list(inference.Generate(request))
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "grpc-retry-pushback-ms" in dict(refused.value.trailing_metadata())
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/v1/completions", '{"prompt": "hi"}', {"content-type": "application/json"})
            response = connection.getresponse()
            assert (response.status, response.headers["retry-after"] is None) == (503, False)
            connection.close()
            assert list(running)[-1].HasField("finish")
        assert service.process.wait(60) == 0
    assert "Traceback" not in log.read_text()


def test_a_background_task_that_dies_takes_the_service_down_with_exit_code_1() -> None:
    program = (
        "from scheduler_svc.__main__ import main\n"
        "from scheduler_svc.channel.link import WorkerLink\n"
        "async def die(link):\n"
        "    raise RuntimeError('a defect')\n"
        "WorkerLink._watch = die\n"
        "main()\n"
    )
    options = ["--model", "bytes", "--spawn-worker", "--grpc-port", "0", "--grace-s", "600"]
    command = [sys.executable, "-c", program, *options, "--", *INSTANT]
    done = subprocess.run(command, cwd=ROOT, env=python_path(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "service_died" in done.stderr
    assert "a defect" in done.stderr


def test_a_service_that_is_to_outlive_its_session_does(log: Path) -> None:
    serve = "scheduler_svc --model bytes --spawn-worker --grpc-port 0 -- --simulated zero"
    command = ["/bin/sh", "-c", f"trap '' HUP; exec {sys.executable} -m {serve}"]
    with log.open("wb") as sink, subprocess.Popen(command, cwd=ROOT, env=python_path(), stderr=sink) as service:
        while b"worker_ready" not in log.read_bytes():
            assert service.poll() is None
            time.sleep(0.02)
        service.send_signal(signal.SIGHUP)
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0
    assert b"name=SIGTERM" in log.read_bytes()
    assert b"name=SIGHUP" not in log.read_bytes()


def start_alone(temporary: Path) -> "subprocess.Popen[bytes]":
    """Starts a scheduler whose folder lies in the test's own temporary directory, and waits for its control socket."""
    command = [sys.executable, "-m", "scheduler_svc", "--model", "bytes", "--spawn-worker", "--grpc-port", "0"]
    environment = {**python_path(), "TMPDIR": str(temporary)}
    before = set(temporary.glob("qllm-*/control"))
    process = subprocess.Popen(
        [*command, "--", "--simulated", "zero"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    deadline_s = time.monotonic() + 60
    while not set(temporary.glob("qllm-*/control")) - before:
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return process


def test_folders_of_services_that_were_killed_are_removed_at_the_next_start(tmp_path: Path) -> None:
    killed = start_alone(tmp_path)
    killed.kill()
    killed.wait()
    (stale,) = tmp_path.glob("qllm-*")
    living = start_alone(tmp_path)
    (lives,) = set(tmp_path.glob("qllm-*")) - {stale}
    another = start_alone(tmp_path)
    try:
        assert not stale.exists()
        assert lives.exists()
    finally:
        for process in (living, another):
            process.terminate()
            assert process.wait(60) == 0
    assert list(tmp_path.glob("qllm-*")) == []


def test_a_temporary_directory_whose_path_is_too_long_is_named_as_the_cause(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    command = [sys.executable, "-m", "scheduler_svc", "--model", "bytes", "--spawn-worker", "--grpc-port", "0"]
    environment = {**os.environ, **python_path(), "TMPDIR": str(directory)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"qllm-scheduler: TMPDIR: {directory} is too long for a control socket in it")
    assert list(directory.iterdir()) == []
