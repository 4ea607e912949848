"""What a real worker takes is written as a table that simulations read, and that says what its next steps take."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from qllm.cost_table import CostTable, parse_cost_table

from gpu_worker.contract.commands import AddSequence, Advance, BatchItem, Sampling, StartBatch
from gpu_worker.contract.introduction import Hello, WorkerModel
from gpu_worker.contract.results import WorkTiming
from gpu_worker.cursor import Cursor
from gpu_worker.execution.cost_fit import FittedCosts
from gpu_worker.execution.cost_recorder import CostRecorder, cost_table, recording_costs
from gpu_worker.execution.executor import RunnerExecutor
from gpu_worker.execution.runner import Runner
from gpu_worker.startup.warmup import warm_up
from scheduler_svc.simulation.job import parse_job
from tests.support.worker.worker_driver import Driver, loaded, random_prompts

END = Cursor(loaded().facts.num_layers)
PREDICTS_WITHIN = 2.0  # steps of a tiny model are short: mostly what Python takes, and who else has the core
COSTS = FittedCosts((100.0, 10.0, 1.0), (50.0, 5.0), (30.0, 3.0), 0.061)


@pytest.fixture(autouse=True)
def _inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


def model(**changes: object) -> WorkerModel:
    facts = loaded().facts
    described = WorkerModel(
        name="org/tiny",
        other_names=(),
        family=facts.family,
        experts_by_layer=facts.experts_by_layer,
        num_experts_per_token=facts.num_experts_per_token,
        vocab_size=facts.vocab_size,
        eos_token_ids=(),
        max_model_len=256,
        block_size=32,
        num_blocks=8,
        num_host_blocks=2,
        dtype="float32",
        quantization="none",
        device="cpu",
        tokenizer_json=b"",
        chat_template="",
    )
    return replace(described, **changes)  # type: ignore[arg-type]


def read(file: Path) -> CostTable:
    return parse_cost_table(json.loads(file.read_text()))


def predicted_ns(table: CostTable, timing: WorkTiming) -> float:
    attention = (timing.num_attention_stages, timing.attention_tokens, timing.attention_pairs)
    expert, head = (timing.num_expert_runs, timing.expert_tokens), (timing.num_heads, timing.head_rows)
    pairs = zip((*attention, *expert, *head), (*table.attention_us, *table.expert_us, *table.head_us), strict=True)
    return 1e3 * sum(count * each_us for count, each_us in pairs)


def run_steps(num_rounds: int) -> list[WorkTiming]:
    """Prompts of different lengths, and a few tokens for several at a time, on the real runner."""
    driver, timings = Driver(loaded(), num_blocks=256), []
    for lengths in ((3, 50), (17,), (120, 9, 30), (64, 64)) * num_rounds:
        stories = [driver.add(prompt, max_tokens=4) for prompt in random_prompts(lengths)]
        while live := [story for story in stories if not story.is_over]:
            timings.append(driver.advance(driver.start(*live)).timing)
        for story in stories:
            driver.drop(story)
    return timings


def test_the_table_of_a_real_model_predicts_steps_that_it_was_not_fitted_to(tmp_path: Path) -> None:
    timings = run_steps(num_rounds=8)[8:]  # the first ones set memory up
    fitted, held_out = timings[::2], timings[1::2]
    recorder = CostRecorder(tmp_path / "costs.json", model())
    for timing in fitted:
        recorder.note(timing)
    recorder.write()
    table = read(tmp_path / "costs.json")
    ratios = [predicted_ns(table, one) / (one.layers_ns + one.head_ns) for one in held_out]
    assert 1 / PREDICTS_WITHIN < statistics.median(ratios) < PREDICTS_WITHIN
    assert statistics.median(max(ratio, 1 / ratio) for ratio in ratios) < PREDICTS_WITHIN


def test_a_recorded_table_is_what_a_simulation_takes_and_says_where_it_is_from(tmp_path: Path) -> None:
    table = cost_table(model(), COSTS, num_steps=1234)
    assert parse_job({"cost_table": table, "requests": [[0, "ls", 10, 3]]}).cost_table == parse_cost_table(table)
    assert table["name"] == "recorded-tiny"
    assert (table["num_blocks"], table["num_host_blocks"]) == (16, 4)  # of 16 tokens
    for part in ("org/tiny (mixtral) in float32 on cpu", "torch", "threads", "1,234 steps", "within 6.1%"):
        assert part in str(table["source"])


def test_layers_without_experts_share_the_time_of_those_with(tmp_path: Path) -> None:
    table = parse_cost_table(cost_table(model(experts_by_layer=(0, 8, 8, 8)), COSTS, 1))
    assert (table.num_layers, table.num_experts, table.expert_us) == (4, 8, (37.5, 3.75))
    dense = parse_cost_table(cost_table(model(experts_by_layer=(0, 0), num_experts_per_token=0), COSTS, 1))
    assert (dense.num_experts, dense.num_experts_per_token, dense.expert_us) == (1, 1, (0, 0))


def test_the_file_is_there_from_the_start_and_holds_the_steps_at_the_end(tmp_path: Path) -> None:
    file, runner = tmp_path / "costs.json", Runner(loaded(), num_blocks=8, block_size=32, num_host_blocks=2)
    hello = Hello(model(), warm_up(runner, range(4)), 1)
    with recording_costs(RunnerExecutor(runner), hello, file) as executor:
        assert f"{len(hello.calibration)} steps" in read(file).source
        assert read(file).attention_us[0] > 0
        executor.apply(AddSequence(1, Sampling(), (), 1))
        executor.apply(StartBatch(1, [BatchItem(1, 3, (5, 6, 7), 0, (0,))]))
        executor.advance(Advance(1, (1,), END), lambda _: True)
    assert f"{len(hello.calibration) + 1} steps" in read(file).source
    assert [path.name for path in tmp_path.iterdir()] == ["costs.json"]


def test_it_is_written_again_only_when_the_last_time_is_long_ago(tmp_path: Path) -> None:
    now_s, file = 0.0, tmp_path / "costs.json"
    recorder = CostRecorder(file, model(), now_s=lambda: now_s)
    step = WorkTiming(num_heads=1, head_rows=1, head_ns=1000)

    def steps_after(at_s: float) -> str:
        nonlocal now_s
        now_s = at_s
        recorder.note(step)
        return read(file).source.partition("Fitted to ")[2].partition(" ")[0]

    assert [steps_after(at_s) for at_s in (0.0, 1.0, 9.9, 10.0)] == ["1", "1", "1", "4"]


def test_a_worker_whose_file_cannot_be_written_any_more_serves_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    recorder = CostRecorder(directory / "costs.json", model())
    directory.rmdir()
    recorder.write()
    assert "costs_not_written" in caplog.text
