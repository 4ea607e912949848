"""`qllm-scheduler --trace`: a service records what its worker did, and the file opens even after a kill."""

import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qllm.client.bench.commands.timeline import best_story
from qllm.client.bench.results.recorded_trace import BE, LS, RecordedTrace, read_trace
from qllm.v1 import inference_pb2 as pb

from tests.support.service.live_service import ROOT, LiveService, start_service
from tests.support.service.simulated_worker import slow_worker

MODEL = ROOT / "demo" / "model"
PATIENCE_S = 300.0


def ask(service: LiveService, request_class: pb.RequestClass.ValueType, num_prompt: int, max_tokens: int) -> None:
    rng = random.Random(num_prompt)
    message = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=[rng.randrange(3, 200) for _ in range(num_prompt)]),
        request_class=request_class,
        sampling=pb.SamplingParams(temperature=0),
        stop=pb.StopConditions(max_tokens=max_tokens, ignore_eos=True),
    )
    with service.channel() as channel:
        for _ in service.inference(channel).Generate(message, timeout=300):
            pass


def interrupt_best_effort_work(service: LiveService) -> None:
    """Sends latency-sensitive requests over long best-effort prompts until one of those was stopped inside a layer."""
    deadline = time.monotonic() + PATIENCE_S
    with ThreadPoolExecutor(4) as pool:
        while service.loads().num_preemptions_at_expert == 0:
            assert time.monotonic() < deadline, "nothing was ever stopped inside a layer"
            background = [pool.submit(ask, service, pb.REQUEST_CLASS_BEST_EFFORT, 1200 + i, 4) for i in range(2)]
            for i in range(4):
                ask(service, pb.REQUEST_CLASS_LATENCY_SENSITIVE, 20 + i, 3)
            for future in background:
                future.result()


def stops_of(trace: RecordedTrace) -> int:
    return sum(stop.lane is BE for stop in trace.stops)


def test_a_trace_tells_the_preemptions_that_the_service_counts(tmp_path: Path, log: Path) -> None:
    path = tmp_path / "trace.json"
    with start_service(MODEL, log, "--trace", str(path), worker_options=slow_worker(tmp_path)) as service:
        interrupt_best_effort_work(service)
        loads = service.loads()
    trace = read_trace(path)
    assert stops_of(trace) == loads.num_preemptions_at_expert + loads.num_preemptions_at_layer
    stop = best_story(trace)
    assert stop.end_ms is not None
    assert any(step.lane is LS and stop.begin_ms <= step.begin_ms < stop.end_ms for step in trace.steps)
    assert len(trace.arrivals) == len(trace.first_tokens) > 0


def test_the_trace_of_a_killed_service_opens_and_is_drawn(tmp_path: Path, log: Path) -> None:
    path, picture = tmp_path / "trace.json", tmp_path / "timeline.png"
    with start_service(MODEL, log, "--trace", str(path), worker_options=slow_worker(tmp_path)) as service:
        interrupt_best_effort_work(service)
        deadline = time.monotonic() + PATIENCE_S
        while b"resumed" not in path.read_bytes():  # the writer has its own thread and takes its time
            assert time.monotonic() < deadline, "the stop that the service counted never came to the file"
            time.sleep(0.05)
        worker = service.worker_pid()
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
    subprocess.run(["kill", "-9", str(worker)], check=False, capture_output=True)
    assert not path.read_text().endswith("]\n")
    command = [sys.executable, "-m", "qllm.client", "bench", "timeline", str(path), "--png", str(picture)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Best-effort work stops at" in result.stdout


def test_a_trace_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "trace.json", tmp_path):
        command = [
            sys.executable,
            "-m",
            "scheduler_svc",
            "--control-endpoint",
            f"ipc://{tmp_path}/c",
            "--trace",
            str(path),
        ]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 2
        assert f"--trace: got {path}" in result.stderr
