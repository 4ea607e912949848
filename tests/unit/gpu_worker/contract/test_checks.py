"""Commands are checked against what a worker holds, whatever it holds it for: here for nothing at all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gpu_worker.contract.checks import (
    Known,
    ModelLimits,
    check_add,
    check_advance,
    check_fork,
    check_restore,
    check_start,
    tokens_of,
)
from gpu_worker.contract.commands import AddSequence, BatchItem, Sampling
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused, SequenceRefused

GREEDY = Sampling()


@dataclass
class Held:
    num_cached: int = 0
    last_token: int | None = None
    batch_id: int | None = None


@dataclass
class Suspended:
    live_seq_ids: list[int] = field(default_factory=list)


def worker() -> Known[Held, Suspended]:
    """Sequence 1 is new, 2 has 5 tokens cached in blocks 0 and 1 and one sampled, 3 is in batch 30, batch 40 failed."""
    blocks = BlockLedger(num_blocks=8, block_size=4, num_host_blocks=2)
    blocks.extend(2, [0, 1])
    blocks.extend(3, [2])
    sequences = {1: Held(), 2: Held(5, 17), 3: Held(batch_id=30)}
    return Known(ModelLimits((0, 8), 100, 32), blocks, sequences, {30: Suspended([3])}, {40})


def adding(seq_id: int, stop_token_ids: Sequence[int] = (), *, sampling: Sampling = GREEDY, **more: Any) -> AddSequence:
    return AddSequence(seq_id, sampling, stop_token_ids, 5, **more)


def test_what_may_start_is_known_by_its_sequences_and_their_tokens() -> None:
    known = worker()
    items = [BatchItem(1, 2, (5, 6), 0, (3,)), BatchItem(2, 1, (), 5)]
    sequences = check_start(known, 31, items)
    assert sequences == [known.sequences[1], known.sequences[2]]
    assert [list(tokens_of(item, sequence)) for item, sequence in zip(items, sequences, strict=True)] == [[5, 6], [17]]


def test_one_sequence_that_is_in_the_way_is_named_and_a_batch_that_makes_no_sense_is_not_blamed_on_one() -> None:
    with pytest.raises(SequenceRefused, match="sequence 3 is in batch 30 already") as one:
        check_start(worker(), 31, [BatchItem(1, 1, (5,), 0, (3,)), BatchItem(3, 1, (5,))])
    assert one.value.seq_id == 3
    for batch_id, items in ((30, [BatchItem(1, 1, (5,), 0, (3,))]), (31, [])):
        with pytest.raises(CommandRefused) as refusal:
            check_start(worker(), batch_id, items)
        assert not isinstance(refusal.value, SequenceRefused)


def test_a_batch_that_failed_is_passed_over_and_one_that_nobody_knows_is_refused() -> None:
    known = worker()
    assert check_advance(known, [40, 30], Cursor(2)) == [known.batches[30]]
    assert check_advance(known, [40], Cursor(2)) == []
    with pytest.raises(CommandRefused, match="batch 41 is not known"):
        check_advance(known, [30, 41], Cursor(2))


def test_a_batch_goes_on_only_once_its_offloaded_sequence_is_back() -> None:
    known = worker()
    known.blocks.offload(3)
    with pytest.raises(SequenceRefused, match="sequence 3 is offloaded, its batch can't go on"):
        check_advance(known, [30], Cursor(2))
    known.blocks.restore(3, [7])
    assert check_advance(known, [30], Cursor(2))


PLACES = [
    *(Cursor(layer) for layer in range(3)),
    Cursor(0, Stage.EXPERTS, 0),
    *(Cursor(1, Stage.EXPERTS, expert) for expert in range(9)),
]
NO_PLACES = [
    Cursor(-1),
    Cursor(3),
    Cursor(0, Stage.ATTENTION, 1),
    Cursor(0, Stage.EXPERTS, 1),
    Cursor(1, Stage.EXPERTS, -1),
    Cursor(1, Stage.EXPERTS, 9),
    Cursor(2, Stage.EXPERTS, 0),
]


@pytest.mark.parametrize("until", PLACES)
def test_a_batch_may_stop_before_any_stage_or_expert_and_behind_the_last_one(until: Cursor) -> None:
    assert check_advance(worker(), [30], until)


@pytest.mark.parametrize("until", NO_PLACES)
def test_a_cursor_that_no_batch_can_stand_at_is_refused_with_the_experts_that_there_are(until: Cursor) -> None:
    with pytest.raises(CommandRefused, match=r"is no place in a model with experts \(0, 8\) by layer"):
        check_advance(worker(), [30], until)


def test_a_stop_token_outside_of_the_vocabulary_is_refused_and_a_known_id_too() -> None:
    check_add(worker(), adding(9, [0, 99]))
    with pytest.raises(CommandRefused, match="token -1 is outside of the vocabulary of 100"):
        check_add(worker(), adding(9, [100, -1]))
    with pytest.raises(CommandRefused, match="sequence 1 is known already"):
        check_add(worker(), adding(1))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"logit_bias": ((100, 1.0),)}, "token 100 is outside"),
        ({"allowed_token_ids": (-1,)}, "token -1 is outside"),
        ({"bad_words": ((5, 100),)}, "token 100 is outside"),
        ({"bad_words": ((5,), ())}, "a word of no tokens"),
        ({"logit_bias": ((5, math.nan),)}, "finite"),
        ({"presence_penalty": math.inf}, "finite"),
        ({"frequency_penalty": math.nan}, "finite"),
        ({"repetition_penalty": 0.0}, "above 0"),
    ],
)
def test_rules_that_would_make_nonsense_of_logits_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(CommandRefused, match=reason):
        check_add(worker(), adding(9, sampling=Sampling(**fields)))


def test_what_a_sequence_had_is_of_the_vocabulary_and_whole() -> None:
    check_add(worker(), adding(9, num_output_tokens=2, output_token_ids=(5, 6), prompt_token_ids=(7,)))
    check_add(worker(), adding(9, num_output_tokens=2))
    with pytest.raises(CommandRefused, match="1 of the 2 tokens"):
        check_add(worker(), adding(9, num_output_tokens=2, output_token_ids=(5,)))
    with pytest.raises(CommandRefused, match="token 100 is outside"):
        check_add(worker(), adding(9, prompt_token_ids=(100,)))


def test_a_sequence_shares_blocks_that_exist_and_no_more_than_a_text_has() -> None:
    check_add(worker(), adding(9, shared_block_ids=[0, 7]))
    known = replace(worker(), limits=ModelLimits((0, 8), 100, 7))
    for shared, reason in (
        ([0, 0], "name a block twice"),
        ([8], "block 8 does not exist"),
        ([0, 1], "sequence 9 would share 8 tokens, at most 7 fit"),
    ):
        with pytest.raises(CommandRefused, match=reason):
            check_add(known, adding(9, shared_block_ids=shared))


@pytest.mark.parametrize(
    ("seq_id", "parent_seq_id", "new_block_ids", "reason"),
    [
        (9, 2, [3], "sequence 9 is not known"),
        (1, 9, [3], "sequence 9 is not known"),
        (1, 3, [], "sequence 3 is in batch 30, it can't be forked"),
        (1, 4, [], "sequence 4 is offloaded, it can't be forked"),
        (4, 2, [3], "sequence 4 has begun already"),
        (2, 2, [3], "sequence 2 has begun already"),
        (3, 2, [3], "sequence 3 has begun already"),
        (1, 2, [], "has 5 tokens cached: forking it takes 1 new blocks, but 0 were given"),
        (1, 2, [3, 4], "takes 1 new blocks, but 2 were given"),
        (1, 2, [2], "block 2 is held by sequence 3"),
    ],
)
def test_a_fork_needs_a_parent_at_rest_a_child_that_holds_nothing_and_room_for_the_last_block(
    seq_id: int, parent_seq_id: int, new_block_ids: list[int], reason: str
) -> None:
    known = replace(worker(), sequences={**worker().sequences, 4: Held()})
    known.blocks.offload(4)
    with pytest.raises(CommandRefused, match=reason):
        check_fork(known, seq_id, parent_seq_id, new_block_ids)
    assert check_fork(known, 1, 2, [3]) == (known.sequences[1], known.sequences[2])


def test_a_sequence_comes_back_to_shared_blocks_as_far_as_its_full_ones_go_and_to_free_ones_behind() -> None:
    known = worker()
    known.blocks.offload(2)
    for block_ids, num_shared, reason in (
        ([0, 3], 3, "would share 3 blocks, allowed are 0 to 2"),
        ([0, 3], 2, "would share 2 blocks of 4 tokens, but has 5 tokens cached"),
        ([2, 3], 0, "block 2 is held by sequence 3"),
        ([0, 2], 1, "block 2 is held by sequence 3"),
        ([2, 2], 1, "name a block twice"),
    ):
        with pytest.raises(CommandRefused, match=reason):
            check_restore(known, 2, block_ids, num_shared)
    assert check_restore(known, 2, [2, 3], 1) == known.sequences[2]


def test_nobody_writes_to_a_block_that_others_hold_too() -> None:
    known = worker()
    known.blocks.share(1, [0])
    check_start(known, 31, [BatchItem(2, 1, (), 5)])
    with pytest.raises(SequenceRefused, match="sequence 1 would write to block 0, which others hold too"):
        check_start(known, 31, [BatchItem(1, 1, (5,), 0)])
