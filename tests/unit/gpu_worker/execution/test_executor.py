"""The scheduler's commands against the real Runner on a tiny model."""

from collections.abc import Callable

import pytest
import torch

from gpu_worker.contract.commands import (
    AddSequence,
    Advance,
    BatchItem,
    DropBatch,
    DropSequence,
    OffloadSequence,
    RestoreSequence,
    Sampling,
    StartBatch,
)
from gpu_worker.contract.results import FinishReason
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused
from gpu_worker.execution.executor import RunnerExecutor
from gpu_worker.execution.runner import Runner
from tests.support.worker.worker_driver import loaded

END = Cursor(loaded().facts.num_layers)


@pytest.fixture(autouse=True)
def _inference_mode() -> object:
    with torch.inference_mode():
        yield


def add(seq_id: int, max_tokens: int = 2) -> AddSequence:
    return AddSequence(seq_id, Sampling(), (), max_tokens)


def start(batch_id: int, *items: BatchItem) -> StartBatch:
    return StartBatch(batch_id, items)


def prompt(seq_id: int, block_id: int) -> BatchItem:
    return BatchItem(seq_id, 3, (5, 6, 7), 0, (block_id,))


def advance(*batch_ids: int, until: Cursor = END) -> Advance:
    return Advance(1, batch_ids, until)


def always(_: Cursor) -> bool:
    return True


@pytest.fixture
def runner() -> Runner:
    return Runner(loaded(), num_blocks=4, block_size=16, num_host_blocks=4)


@pytest.fixture
def executor(runner: Runner) -> RunnerExecutor:
    return RunnerExecutor(runner)


def test_sequence_runs_to_its_length_in_two_iterations(executor: RunnerExecutor) -> None:
    units: list[Cursor] = []
    executor.apply(add(1))
    executor.apply(start(1, prompt(1, 0)))
    first = executor.advance(advance(1), lambda cursor: not units.append(cursor))
    assert first.reached == END
    assert (first.timing.num_heads, first.timing.num_attention_stages) == (1, loaded().facts.num_layers)
    assert len(units) == 2 * first.timing.num_attention_stages + first.timing.num_expert_runs  # one inside each stage
    assert first.tokens[0].finish_reason is None
    executor.apply(start(2, BatchItem(1, 1, first_position=3)))
    second = executor.advance(advance(2), always)
    assert second.tokens[0].finish_reason is FinishReason.LENGTH


def test_advance_stops_where_it_is_told_and_says_what_it_holds(executor: RunnerExecutor) -> None:
    executor.apply(add(1))
    executor.apply(start(1, prompt(1, 0)))
    until = Cursor(1)
    result = executor.advance(advance(1, until=until), always)
    assert result.reached == until
    assert result.suspended_bytes > 0
    assert not result.tokens


def test_offloaded_sequence_comes_back_and_goes_on(executor: RunnerExecutor) -> None:
    executor.apply(add(1))
    executor.apply(start(1, prompt(1, 0)))
    executor.advance(advance(1), always)
    executor.apply(OffloadSequence(1))
    executor.apply(RestoreSequence(1, (3,)))
    executor.apply(start(2, BatchItem(1, 1, first_position=3)))
    assert executor.advance(advance(2), always).tokens


@pytest.mark.parametrize(
    "act",
    [
        lambda executor: executor.apply(DropSequence(9)),
        lambda executor: executor.apply(DropBatch(9)),
        lambda executor: executor.apply(start(1, prompt(9, 0))),
        lambda executor: executor.advance(advance(9), always),
    ],
)
def test_command_that_names_something_unknown_is_refused(
    executor: RunnerExecutor, act: Callable[[RunnerExecutor], object]
) -> None:
    with pytest.raises(CommandRefused):
        act(executor)


def test_forget_all_leaves_nothing_behind(executor: RunnerExecutor, runner: Runner) -> None:
    for seq_id in (1, 2, 3):
        executor.apply(add(seq_id))
        executor.apply(start(seq_id, prompt(seq_id, seq_id - 1)))
    until = Cursor(1, Stage.EXPERTS, 1)
    executor.advance(advance(1, until=until), always)
    executor.advance(advance(2), always)
    executor.apply(DropSequence(3))
    executor.forget_all()
    assert runner.cache.blocks.num_free_blocks == 4
    executor.apply(add(1))
    executor.apply(start(1, prompt(1, 0)))


def test_abandoned_batches_are_reported_with_their_sequences_and_forgotten(executor: RunnerExecutor) -> None:
    executor.apply(add(1))
    executor.apply(start(1, prompt(1, 0)))
    errors = executor.abandon([1], "ValueError: shape")
    assert [(error.batch_id, list(error.seq_ids)) for error in errors] == [(1, [1])]
    with pytest.raises(CommandRefused):
        executor.advance(advance(1), always)


def test_a_check_counts_what_is_held_and_tells_a_table_that_the_ledger_does_not_know(
    executor: RunnerExecutor, runner: Runner
) -> None:
    for seq_id in (1, 2):
        executor.apply(add(seq_id))
    executor.apply(start(1, prompt(1, 0), prompt(2, 1)))
    executor.advance(advance(1), always)
    executor.apply(OffloadSequence(2))
    executor.apply(start(2, BatchItem(1, 1, first_position=3)))
    executor.advance(advance(2, until=Cursor(1)), always)
    report = executor.check(6)
    assert (report.check_id, report.problem, report.num_sequences) == (6, "", 2)
    assert (report.num_held_blocks, report.num_host_blocks, report.num_disk_blocks) == (1, 1, 0)
    assert report.device_bytes == runner.cache.device_bytes
    assert report.suspended_bytes > 0
    runner._sequences[1].table.block_ids.append(3)
    assert "the table of sequence 1 lists [0, 3]" in executor.check(7).problem
