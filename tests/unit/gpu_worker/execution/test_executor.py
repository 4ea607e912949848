"""Commands of the control channel against the real Runner on a tiny model."""

from collections.abc import Callable

import pytest
import torch
from qllm.v1 import control_pb2, inference_pb2

from gpu_worker.cursor import Cursor
from gpu_worker.errors import CommandRefused
from gpu_worker.execution.executor import RunnerExecutor
from gpu_worker.execution.runner import Runner
from tests.worker_driver import loaded

END = control_pb2.Cursor(layer=loaded().facts.num_layers, stage=control_pb2.STAGE_ATTENTION)


@pytest.fixture(autouse=True)
def _inference_mode() -> object:
    with torch.inference_mode():
        yield


def command(**fields: object) -> control_pb2.StepCommand:
    return control_pb2.StepCommand(**fields)  # type: ignore[arg-type]


def add(seq_id: int, max_tokens: int = 2) -> control_pb2.StepCommand:
    sampling = inference_pb2.SamplingParams(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0)
    return command(add_sequence=control_pb2.AddSequence(seq_id=seq_id, sampling=sampling, max_tokens=max_tokens))


def start(batch_id: int, *items: control_pb2.BatchItem) -> control_pb2.StepCommand:
    return command(start_batch=control_pb2.StartBatch(batch_id=batch_id, items=items))


def prompt(seq_id: int, block_id: int) -> control_pb2.BatchItem:
    return control_pb2.BatchItem(
        seq_id=seq_id, num_tokens=3, token_ids=[5, 6, 7], new_block_ids=[block_id], samples=True
    )  # fmt: skip


def advance(*batch_ids: int, until: control_pb2.Cursor = END) -> control_pb2.Advance:
    return control_pb2.Advance(command_id=1, batch_ids=batch_ids, until=until)


def always(_: Cursor) -> bool:
    return True


@pytest.fixture
def runner() -> Runner:
    return Runner(loaded(), num_blocks=4, block_size=16, num_host_blocks=4)


@pytest.fixture
def executor(runner: Runner) -> RunnerExecutor:
    return RunnerExecutor(runner, loaded().facts.num_layers)


def test_sequence_runs_to_its_length_in_two_iterations(executor: RunnerExecutor) -> None:
    units: list[Cursor] = []
    executor.apply(add(1))
    executor.apply(start(1, prompt(1, 0)))
    first = executor.advance(advance(1), lambda cursor: not units.append(cursor))
    assert first.reached == END
    assert (first.timing.num_heads, first.timing.num_attention_stages) == (1, loaded().facts.num_layers)
    assert len(units) == 2 * first.timing.num_attention_stages + first.timing.num_expert_runs  # one inside each stage
    assert first.tokens[0].finish_reason == inference_pb2.FINISH_REASON_UNSPECIFIED
    executor.apply(start(2, control_pb2.BatchItem(seq_id=1, num_tokens=1, first_position=3, samples=True)))
    second = executor.advance(advance(2), always)
    assert second.tokens[0].finish_reason == inference_pb2.FINISH_REASON_LENGTH


def test_advance_stops_where_it_is_told_and_says_what_it_holds(executor: RunnerExecutor) -> None:
    executor.apply(add(1))
    executor.apply(start(1, prompt(1, 0)))
    until = control_pb2.Cursor(layer=1, stage=control_pb2.STAGE_ATTENTION)
    result = executor.advance(advance(1, until=until), always)
    assert result.reached == until
    assert result.suspended_bytes > 0
    assert not result.tokens


def test_offloaded_sequence_comes_back_and_goes_on(executor: RunnerExecutor) -> None:
    executor.apply(add(1))
    executor.apply(start(1, prompt(1, 0)))
    executor.advance(advance(1), always)
    executor.apply(command(offload_sequence=control_pb2.OffloadSequence(seq_id=1)))
    executor.apply(command(restore_sequence=control_pb2.RestoreSequence(seq_id=1, block_ids=[3])))
    executor.apply(start(2, control_pb2.BatchItem(seq_id=1, num_tokens=1, first_position=3, samples=True)))
    assert executor.advance(advance(2), always).tokens


@pytest.mark.parametrize(
    "act",
    [
        lambda executor: executor.apply(command()),
        lambda executor: executor.apply(command(drop_sequence=control_pb2.DropSequence(seq_id=9))),
        lambda executor: executor.apply(command(drop_batch=control_pb2.DropBatch(batch_id=9))),
        lambda executor: executor.apply(start(1, prompt(9, 0))),
        lambda executor: executor.advance(advance(9), always),
        lambda executor: executor.advance(advance(9, until=control_pb2.Cursor(layer=1)), always),
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
    until = control_pb2.Cursor(layer=1, stage=control_pb2.STAGE_EXPERTS, expert=1)
    executor.advance(advance(1, until=until), always)
    executor.advance(advance(2), always)
    executor.apply(command(drop_sequence=control_pb2.DropSequence(seq_id=3)))
    executor.forget_all()
    assert runner.cache.blocks.num_free_blocks == 4
    executor.apply(add(1))
    executor.apply(start(1, prompt(1, 0)))


def test_abandoned_batches_are_reported_with_their_sequences_and_forgotten(executor: RunnerExecutor) -> None:
    executor.apply(add(1))
    executor.apply(start(1, prompt(1, 0)))
    result = executor.abandon(advance(1), "ValueError: shape")
    assert [(error.batch_id, list(error.seq_ids)) for error in result.batch_errors] == [(1, [1])]
    with pytest.raises(CommandRefused):
        executor.advance(advance(1), always)
