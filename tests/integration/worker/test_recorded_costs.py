"""`qllm-worker --record-costs` in a service: the table is whole however the worker ends, and simulations take it."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from qllm.cost_table import CostTable, parse_cost_table
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.simulation.mixed_load import MixedLoad, simulate_mixed_load
from tests.support.service.live_service import ROOT, LiveService, start_service

MODEL = ROOT / "demo" / "model"
pytestmark = pytest.mark.slow


def ask(service: LiveService, num_prompt: int, max_tokens: int) -> None:
    rng = random.Random(num_prompt)
    message = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=[rng.randrange(3, 200) for _ in range(num_prompt)]),
        request_class=pb.REQUEST_CLASS_LATENCY_SENSITIVE,
        sampling=pb.SamplingParams(temperature=0),
        stop=pb.StopConditions(max_tokens=max_tokens, ignore_eos=True),
    )
    with service.channel() as channel:
        assert list(service.inference(channel).Generate(message, timeout=300))


def wait_for_the_next_worker(service: LiveService) -> None:
    deadline_s = time.monotonic() + 300
    while service.log.read_text().count("worker_ready") < 2:
        assert time.monotonic() < deadline_s, service.log.read_text()[-3000:]
        time.sleep(0.05)


def read(file: Path) -> CostTable:
    return parse_cost_table(json.loads(file.read_text()))


def num_steps(table: CostTable) -> int:
    return int(table.source.partition("Fitted to ")[2].partition(" ")[0].replace(",", ""))


def test_the_table_is_whole_after_a_kill_and_holds_the_steps_of_the_next_worker_at_its_end(
    tmp_path: Path, log: Path
) -> None:
    file = tmp_path / "costs.json"
    with start_service(MODEL, log, worker_options=("--record-costs", str(file))) as service:
        os.kill(service.worker_pid(), signal.SIGKILL)
        killed = read(file)
        assert killed.expert_us[0] > 0
        wait_for_the_next_worker(service)
        for num_prompt in (20, 200, 400):
            ask(service, num_prompt, max_tokens=30)
    ended = read(file)
    assert num_steps(ended) >= num_steps(killed) + 3 * 30
    assert "float32 on cpu" in ended.source
    simulated = simulate_mixed_load(json.loads(file.read_text()), MixedLoad(be_prompt_tokens=300, seconds=2.0))
    assert simulated.be_tokens_per_s > 0
