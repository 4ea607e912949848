"""A command that names something unknown or contradicts what is held is refused, and nothing has changed."""

from collections.abc import Sequence
from typing import Any

import pytest

from gpu_worker.contract.commands import AddSequence, BatchItem, Sampling
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused
from gpu_worker.execution.runner import Runner
from tests.support.worker.worker_driver import loaded

END = Cursor(3)
FIRST = BatchItem(1, 5, (5, 6, 7, 8, 9), 0, (0, 1))


@pytest.fixture
def runner() -> Runner:
    """Sequences 1 (new), 2 (one token sampled, blocks 10 and 11), 3 (in batch 30, block 12) and 4 (offloaded)."""
    runner = Runner(loaded(), num_blocks=16, block_size=4, num_host_blocks=2)
    for seq_id in (1, 2, 3, 4):
        runner.add_sequence(AddSequence(seq_id, Sampling(), (), 5))
    runner.start_batch(20, [BatchItem(2, 5, (5, 6, 7, 8, 9), 0, (10, 11)), BatchItem(4, 3, (5, 6, 7), 0, (13,))])
    runner.advance([20], END)
    runner.start_batch(30, [BatchItem(3, 2, (5, 6), 0, (12,))])
    runner.offload_sequence(4)
    return runner


def _state(runner: Runner) -> Any:
    tables = [(s.seq_id, list(s.table.block_ids), s.table.num_cached, s.batch_id) for s in runner._sequences.values()]
    return (
        tables,
        sorted(runner._batches),
        runner.cache.blocks.num_free_blocks,
        runner.cache.blocks.num_free_host_blocks,
    )


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([], "no sequences"),
        ([FIRST, FIRST], "twice"),
        ([BatchItem(99, 1, (5,), 0, (0,))], "sequence 99 is not known"),
        ([BatchItem(1, 5, (5, 6, 7, 8, 9), 3, (0, 1))], "0 tokens cached, not 3"),
        ([BatchItem(2, 1, (), 4)], "5 tokens cached, not 4"),
        ([BatchItem(1, 1, (512,), 0, (0,))], "token 512 is outside of the vocabulary of 512"),
        ([BatchItem(1, 1, (-1,), 0, (0,))], "token -1"),
        ([BatchItem(1, 1, (5,), 0, (16,))], "block 16 does not exist"),
        ([BatchItem(1, 1, (5,), 0, (-1,))], "block -1 does not exist"),
        ([BatchItem(1, 1, (5,), 0, (10,))], "block 10 is held by sequence 2"),
        ([BatchItem(1, 1, (5,), 0, (0, 0))], "a block twice"),
        ([BatchItem(1, 1, (5,), 0, (0,)), BatchItem(2, 1, (), 5, (0,))], "a block twice"),
        ([BatchItem(1, 5, (5, 6, 7, 8, 9), 0, (0,))], "5 tokens, its blocks have room for 4"),
        ([BatchItem(1, 3, (5, 6), 0, (0,))], "2 token ids for 3 tokens"),
        ([BatchItem(1, 0, (), 0, (0,))], "at least 1"),
        ([BatchItem(1, 1, (), 0, (0,))], "no token ids"),
        ([BatchItem(2, 2, (), 5)], "no token ids"),
        ([BatchItem(3, 1, (5,), 0)], "in batch 30 already"),
        ([BatchItem(4, 1, (), 3)], "offloaded"),
        ([FIRST, BatchItem(99, 1, (5,), 0, (2,))], "99"),
    ],
)
def test_an_iteration_that_contradicts_what_is_held_is_refused(
    runner: Runner, items: Sequence[BatchItem], reason: str
) -> None:
    before = _state(runner)
    with pytest.raises(CommandRefused, match=reason):
        runner.start_batch(40, items)
    assert _state(runner) == before
    runner.start_batch(40, [FIRST])


def test_a_sequence_longer_than_the_model_allows_is_refused() -> None:
    runner = Runner(loaded(), num_blocks=200, block_size=4, num_host_blocks=0)
    runner.add_sequence(AddSequence(1, Sampling(), (), 5))
    with pytest.raises(CommandRefused, match="513 tokens, at most 512"):
        runner.start_batch(1, [BatchItem(1, 513, [5] * 513, 0, range(200))])


@pytest.mark.parametrize(
    ("batch_ids", "until", "reason"),
    [
        ([], END, "at least one"),
        ([30, 30], END, "each once"),
        ([99], END, "batch 99 is not known"),
        ([20], END, "batch 20 is not known"),
        ([30], Cursor(4), "no place"),
        ([30], Cursor(-1), "no place"),
        ([30], Cursor(0, Stage.EXPERTS, 9), "no place"),
        ([30], Cursor(0, Stage.ATTENTION, 1), "no place"),
        ([30], Cursor(3, Stage.EXPERTS, 0), "no place"),
    ],
)
def test_an_advance_to_no_place_or_of_no_batch_is_refused(
    runner: Runner, batch_ids: Sequence[int], until: Cursor, reason: str
) -> None:
    before = _state(runner)
    with pytest.raises(CommandRefused, match=reason):
        runner.advance(batch_ids, until)
    assert _state(runner) == before


def test_a_batch_is_not_advanced_while_a_sequence_of_it_is_offloaded(runner: Runner) -> None:
    runner.restore_sequence(4, (14,))
    runner.offload_sequence(3)
    with pytest.raises(CommandRefused, match="sequence 3 is offloaded"):
        runner.advance([30], END)
    runner.restore_sequence(3, (0,))
    assert len(runner.advance([30], END).tokens) == 1


def test_restoring_needs_an_offloaded_sequence_and_as_many_free_blocks_as_it_had(runner: Runner) -> None:
    before = _state(runner)
    for seq_id, block_ids in ((2, (0, 1)), (99, ()), (4, ()), (4, (0, 1)), (4, (10,)), (4, (16,))):
        with pytest.raises(CommandRefused):
            runner.restore_sequence(seq_id, block_ids)
    assert _state(runner) == before
    runner.restore_sequence(4, (0,))


def test_offloading_needs_room_on_the_host(runner: Runner) -> None:
    before = _state(runner)
    for seq_id, reason in ((2, "holds 2 blocks, host memory has room for 1 of 2"), (4, "already"), (99, "not known")):
        with pytest.raises(CommandRefused, match=reason):
            runner.offload_sequence(seq_id)
    assert _state(runner) == before


def test_ids_that_are_not_known_or_known_already_are_refused(runner: Runner) -> None:
    before = _state(runner)
    with pytest.raises(CommandRefused, match="sequence 1 is known already"):
        runner.add_sequence(AddSequence(1, Sampling(), (), 5))
    with pytest.raises(CommandRefused, match="token 600"):
        runner.add_sequence(AddSequence(5, Sampling(), (600,), 5))
    with pytest.raises(CommandRefused, match="batch 30 is known already"):
        runner.start_batch(30, [FIRST])
    with pytest.raises(CommandRefused, match="sequence 99"):
        runner.drop_sequence(99)
    with pytest.raises(CommandRefused, match="batch 99"):
        runner.drop_batch(99)
    assert _state(runner) == before
