"""What is wrong with one sequence ends that one, by name, and no other, with real and simulated executors."""

from collections.abc import Iterator

import pytest
import torch

from gpu_worker.contract.commands import BatchItem, Command, OffloadSequence, RestoreSequence
from gpu_worker.cursor import Cursor
from gpu_worker.errors import CacheLost, CommandRefused
from gpu_worker.execution.forgiving import ForgivingExecutor
from gpu_worker.sampling.sampler import NOT_FINITE, Choice
from tests.unit.gpu_worker.simulated.test_executor import (
    BLOCK_SIZE,
    END,
    FACTS,
    NUM_BLOCKS,
    add,
    advance,
    always,
    drop,
    drop_batch,
    fork,
    item,
    offload,
    real,
    restore,
    simulated,
    start,
)

INSIDE = Cursor(1)
BEYOND = FACTS.vocab_size


@pytest.fixture(autouse=True)
def _inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=[real, simulated])
def executor(request: pytest.FixtureRequest) -> ForgivingExecutor:
    return ForgivingExecutor(request.param(), FACTS.num_layers)


def prompt(seq_id: int, *token_ids: int) -> BatchItem:
    token_ids = token_ids or (5, 6, 7)
    return item(seq_id, len(token_ids), token_ids, blocks=(seq_id,))


def run(executor: ForgivingExecutor, *batch_ids: int) -> tuple[list[int], dict[int, str]]:
    """Who got a token, and whom the result names as not served."""
    result = executor.advance(advance(*batch_ids), always)
    assert not result.batch_errors
    return [token.seq_id for token in result.tokens], {error.seq_id: error.message for error in result.sequence_errors}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (item(2, 1, (BEYOND,), blocks=(2,)), f"token {BEYOND} is outside of the vocabulary of {BEYOND}"),
        (item(9, 1, (5,), blocks=(2,)), "sequence 9 is not known"),
        (item(2, 1, (5,), first=7, blocks=(2,)), "0 tokens cached, not 7"),
        (item(2, 1, (5,), blocks=(NUM_BLOCKS,)), "does not exist"),
        (item(2, 1, (), blocks=(2,)), "no token ids"),
        (item(2, BLOCK_SIZE + 1, (5,) * (BLOCK_SIZE + 1), blocks=(2,)), "its blocks have room for"),
    ],
)
def test_a_member_that_cannot_run_is_left_out_by_name_and_the_others_run(
    executor: ForgivingExecutor, bad: BatchItem, reason: str
) -> None:
    for seq_id in (1, 2, 3):
        executor.apply(add(seq_id))
    executor.apply(start(1, prompt(1), bad, prompt(3)))
    tokens, errors = run(executor, 1)
    assert tokens == [1, 3]
    assert errors.keys() == {bad.seq_id}
    assert reason in errors[bad.seq_id]


def test_a_sequence_that_cannot_be_added_is_passed_over_until_it_is_dropped(executor: ForgivingExecutor) -> None:
    executor.apply(add(1))
    executor.apply(add(2, stop_token_ids=[BEYOND]))
    executor.apply(start(1, prompt(1), prompt(2)))
    executor.apply(start(2, prompt(2)))
    executor.apply(offload(2))
    executor.apply(restore(2, 5))
    tokens, errors = run(executor, 1)
    assert (tokens, errors.keys()) == ([1], {2})
    assert run(executor, 2) == ([], {})  # it is said once
    executor.apply(drop(2))
    with pytest.raises(CommandRefused, match="sequence 2 is not known"):
        executor.apply(drop(2))


def test_a_batch_of_which_nobody_is_left_is_over_when_it_is_advanced_or_dropped(executor: ForgivingExecutor) -> None:
    executor.apply(add(1))
    for batch_id in (1, 2, 3):
        executor.apply(start(batch_id, prompt(7 + batch_id)))
    executor.apply(start(4, prompt(1)))
    executor.apply(drop_batch(1))
    inside = executor.advance(advance(2, until=INSIDE), always)
    assert inside.reached == INSIDE
    assert [error.seq_id for error in inside.sequence_errors] == [8, 9, 10]
    assert run(executor, 2, 4)[0] == [1]
    last = executor.advance(advance(3), always)
    assert (last.reached, len(last.tokens)) == (END, 0)
    for batch_id in (1, 2, 3):
        with pytest.raises(CommandRefused, match="not known"):
            executor.apply(drop_batch(batch_id))


def test_a_batch_of_which_nobody_is_left_goes_along_when_its_command_is_cut_short(executor: ForgivingExecutor) -> None:
    executor.apply(add(1))
    executor.apply(start(1, prompt(1)))
    executor.apply(start(2, prompt(9)))
    assert executor.advance(advance(1, 2), lambda cursor: False).reached != END
    assert run(executor, 1, 2) == ([1], {})
    with pytest.raises(CommandRefused, match="not known"):
        executor.apply(drop_batch(2))


def test_a_member_that_is_refused_elsewhere_leaves_the_batch_that_it_is_in(executor: ForgivingExecutor) -> None:
    executor.apply(add(1))
    executor.apply(add(2))
    executor.apply(start(1, prompt(1), prompt(2)))
    executor.advance(advance(1, until=INSIDE), always)
    executor.apply(start(2, prompt(2)))
    tokens, errors = run(executor, 1)
    assert (tokens, errors) == ([1], {2: "sequence 2 is in batch 1 already"})


def test_an_offloaded_member_is_left_behind_when_its_batch_is_advanced(executor: ForgivingExecutor) -> None:
    executor.apply(add(1))
    executor.apply(add(2))
    executor.apply(start(1, prompt(1), prompt(2)))
    executor.advance(advance(1, until=INSIDE), always)
    executor.apply(offload(2))
    tokens, errors = run(executor, 1)
    assert (tokens, errors) == ([1], {2: "sequence 2 is offloaded, its batch can't go on"})


@pytest.mark.parametrize("order", [start(1), start(1, prompt(1), prompt(1)), drop(9), drop_batch(9)], ids=str)
def test_what_no_single_sequence_is_to_blame_for_is_refused_as_before(
    executor: ForgivingExecutor, order: Command
) -> None:
    executor.apply(add(1))
    with pytest.raises(CommandRefused):
        executor.apply(order)
    assert run_alone(executor) == [1]


def run_alone(executor: ForgivingExecutor) -> list[int]:
    executor.apply(start(50, prompt(1)))
    tokens, errors = run(executor, 50)
    assert not errors
    return tokens


def test_a_new_epoch_knows_nothing_of_who_was_left_out(executor: ForgivingExecutor) -> None:
    executor.apply(add(1, stop_token_ids=[BEYOND]))
    executor.apply(start(50, prompt(1)))
    executor.forget_all()
    executor.apply(add(1))
    assert run_alone(executor) == [1]


def test_a_sequence_whose_output_is_no_number_is_left_out_of_what_is_begun_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = ForgivingExecutor(real(), FACTS.num_layers)
    executor.apply(add(1))
    executor.apply(add(2))
    executor.apply(start(1, prompt(1), prompt(2)))
    choices = [Choice(5, -1.0), NOT_FINITE]
    monkeypatch.setattr("gpu_worker.execution.stepper.sample", lambda logits, draws, rows: choices)
    tokens, errors = run(executor, 1)
    assert tokens == [1]
    assert "not finite" in errors[2]
    monkeypatch.undo()
    executor.apply(start(2, item(1, 1, (), 3), item(2, 1, (), 3)))
    assert run(executor, 2) == ([1], {})


class Leaky:
    """A real executor of which some moves fail, as a full disk makes them: what is lost is forgotten."""

    def __init__(self, *lost: Command) -> None:
        self.real = real()
        self._lost = lost
        self.advance, self.abandon, self.forget_all = self.real.advance, self.real.abandon, self.real.forget_all

    def apply(self, command: Command) -> None:
        self.real.apply(command)
        if isinstance(command, OffloadSequence | RestoreSequence) and command in self._lost:
            self.real.apply(drop(command.seq_id))
            raise CacheLost(command.seq_id, "no space left")


def test_a_lost_cache_is_told_as_one_and_the_sequence_passed_over_until_it_is_dropped_and_added_anew() -> None:
    executor = ForgivingExecutor(Leaky(offload(2)), FACTS.num_layers)
    for seq_id in (1, 2):
        executor.apply(add(seq_id))
    executor.apply(start(1, prompt(1), prompt(2)))
    executor.advance(advance(1, until=INSIDE), always)
    executor.apply(offload(2))
    executor.apply(restore(2, 5))
    outcome = executor.advance(advance(1), always)
    assert [token.seq_id for token in outcome.tokens] == [1]
    assert [(error.seq_id, error.cache_is_lost) for error in outcome.sequence_errors] == [(2, True)]
    executor.apply(start(2, item(2, 1, (), 3)))
    assert run(executor, 2) == ([], {})
    executor.apply(drop(2))
    executor.apply(add(2))
    executor.apply(start(3, prompt(2)))
    assert run(executor, 3) == ([2], {})


def test_whoever_was_to_share_blocks_that_a_lost_cache_never_filled_is_lost_too_until_they_are_new_again() -> None:
    executor = ForgivingExecutor(Leaky(restore(1, 8)), FACTS.num_layers)
    executor.apply(add(1))
    executor.apply(start(1, item(1, 4, (5, 6, 7, 8), blocks=(1,))))
    executor.advance(advance(1), always)
    executor.apply(offload(1))
    executor.apply(restore(1, 8))
    executor.apply(add(2, shared_block_ids=(8,)))
    executor.apply(add(3))
    executor.apply(fork(3, 1, 9))
    executor.apply(add(4))
    executor.apply(start(2, item(4, 4, (5, 6, 7, 8), blocks=(8,))))
    outcome = executor.advance(advance(2), always)
    assert [(error.seq_id, error.cache_is_lost) for error in outcome.sequence_errors] == [
        (1, True),
        (2, True),
        (3, True),
    ]
    executor.apply(add(5, shared_block_ids=(8,)))
    executor.apply(start(3, item(5, 1, (9,), 4, (10,))))
    assert run(executor, 3) == ([5], {})
