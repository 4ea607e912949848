"""The simulated worker keeps the control protocol's contract: what the real one refuses, it does in the same words."""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest

from gpu_worker.contract.commands import (
    AddSequence,
    Advance,
    BatchItem,
    Command,
    DropBatch,
    DropSequence,
    ForkSequence,
    OffloadSequence,
    RestoreSequence,
    Sampling,
    StartBatch,
    Tier,
)
from gpu_worker.contract.executor import Executor
from gpu_worker.contract.results import FinishReason, SampledToken
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused
from gpu_worker.execution.executor import RunnerExecutor
from gpu_worker.execution.runner import Runner
from gpu_worker.simulated.executor import SimulatedExecutor
from tests.support.worker.worker_driver import loaded
from tests.unit.qllm.test_cost_table import table

FACTS = loaded().facts
NUM_BLOCKS, NUM_HOST_BLOCKS, BLOCK_SIZE = 16, 2, 4
COSTS = table(
    num_layers=FACTS.num_layers,
    num_experts=FACTS.experts_by_layer[0],
    num_experts_per_token=FACTS.num_experts_per_token,
    num_host_blocks=NUM_HOST_BLOCKS,
    attention_us={"fixed": 0, "per_token": 0, "per_pair": 0},
    expert_us={"fixed": 0, "per_token": 0},
    head_us={"fixed": 0, "per_row": 0},
)
END = Cursor(FACTS.num_layers)
GREEDY = Sampling()
LENGTH = FinishReason.LENGTH


def simulated(vocabulary: range = range(3, 512), num_disk_blocks: int = 0) -> SimulatedExecutor:
    return SimulatedExecutor(
        COSTS,
        block_size=BLOCK_SIZE,
        num_blocks=NUM_BLOCKS,
        max_model_len=FACTS.max_model_len,
        vocab_size=FACTS.vocab_size,
        vocabulary=vocabulary,
        num_disk_blocks=num_disk_blocks,
    )


def real() -> RunnerExecutor:
    return RunnerExecutor(Runner(loaded(), NUM_BLOCKS, BLOCK_SIZE, NUM_HOST_BLOCKS))


def add(seq_id: int, max_tokens: int = 5, sampling: Sampling = GREEDY, **fields: Any) -> AddSequence:
    return AddSequence(seq_id, sampling, fields.pop("stop_token_ids", ()), max_tokens, **fields)


def drop(seq_id: int) -> DropSequence:
    return DropSequence(seq_id)


def drop_batch(batch_id: int) -> DropBatch:
    return DropBatch(batch_id)


def offload(seq_id: int, tier: Tier = Tier.HOST) -> OffloadSequence:
    return OffloadSequence(seq_id, tier)


def restore(seq_id: int, *block_ids: int, num_shared: int = 0) -> RestoreSequence:
    return RestoreSequence(seq_id, block_ids, num_shared)


def fork(seq_id: int, parent_seq_id: int, *new_block_ids: int) -> ForkSequence:
    return ForkSequence(seq_id, parent_seq_id, new_block_ids)


def start(batch_id: int, *items: BatchItem) -> StartBatch:
    return StartBatch(batch_id, items)


def item(
    seq_id: int, num_tokens: int, token_ids: tuple[int, ...] = (), first: int = 0, blocks: tuple[int, ...] = ()
) -> BatchItem:
    return BatchItem(seq_id, num_tokens, token_ids, first, blocks)


def advance(*batch_ids: int, until: Cursor = END) -> Advance:
    return Advance(1, batch_ids, until)


def always(_: Cursor) -> bool:
    return True


def carry_out(executor: Executor, order: Command | Advance) -> str:
    """Says what came of a command: the words in which it was refused, or the sequences with a token, and their ends."""
    try:
        if not isinstance(order, Advance):
            executor.apply(order)
            return "done"
        outcome = executor.advance(order, always)
    except CommandRefused as refusal:
        return str(refusal)
    return ends((token.seq_id, token.finish_reason) for token in outcome.tokens)


def ends(tokens: Iterable[tuple[int, FinishReason | None]]) -> str:
    return str(sorted((seq_id, reason or 0) for seq_id, reason in tokens))


def generate(executor: SimulatedExecutor, seq_id: int, prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    """Runs a sequence that was added to its end, on blocks of its own."""
    num_blocks = -(-(len(prompt) + max_tokens) // BLOCK_SIZE)
    step = item(seq_id, len(prompt), prompt, blocks=tuple(range(num_blocks)))
    tokens: list[SampledToken] = []
    while not tokens or not tokens[-1].finish_reason:
        executor.apply(start(seq_id * 1000 + len(tokens), step))
        tokens += executor.advance(advance(seq_id * 1000 + len(tokens)), always).tokens
        step = item(seq_id, 1, (), len(prompt) + len(tokens) - 1)
    executor.apply(drop(seq_id))
    return [token.token_id for token in tokens]


SETTING: tuple[Command | Advance, ...] = (
    *(add(seq_id) for seq_id in (1, 2, 3, 4)),
    start(20, item(2, 5, (5, 6, 7, 8, 9), 0, (10, 11)), item(4, 3, (5, 6, 7), 0, (13,))),
    advance(20),
    start(30, item(3, 2, (5, 6), 0, (12,))),
    offload(4),
)
"""Sequences 1 (new), 2 (one token sampled, blocks 10 and 11), 3 (in batch 30, block 12) and 4 (offloaded)."""
FIRST = item(1, 5, (5, 6, 7, 8, 9), 0, (0, 1))


@pytest.mark.parametrize(
    "order",
    [
        add(1),
        add(5, stop_token_ids=[600]),
        add(5, shared_block_ids=[16]),
        add(5, shared_block_ids=[10, 10]),
        fork(99, 2, 0),
        fork(1, 99, 0),
        fork(1, 2),
        fork(1, 2, 11),
        fork(1, 3, 0),
        fork(1, 4, 0),
        fork(4, 2, 0),
        fork(3, 2, 0),
        fork(2, 2, 0),
        drop(99),
        drop_batch(99),
        offload(2),
        offload(4),
        offload(99),
        restore(2, 0, 1),
        restore(99),
        restore(4),
        restore(4, 10),
        restore(4, 16),
        restore(4, 10, num_shared=1),
        restore(4, 0, num_shared=2),
        start(40),
        start(40, FIRST, FIRST),
        start(30, FIRST),
        start(40, item(99, 1, (5,), 0, (0,))),
        start(40, item(1, 5, (5, 6, 7, 8, 9), 3, (0, 1))),
        start(40, item(2, 1, (), 4)),
        start(40, item(1, 1, (512,), 0, (0,))),
        start(40, item(1, 1, (-1,), 0, (0,))),
        start(40, item(1, 1, (5,), 0, (16,))),
        start(40, item(1, 1, (5,), 0, (10,))),
        start(40, item(1, 1, (5,), 0, (0, 0))),
        start(40, item(1, 1, (5,), 0, (0,)), item(2, 1, (), 5, (0,))),
        start(40, item(1, 5, (5, 6, 7, 8, 9), 0, (0,))),
        start(40, item(1, 3, (5, 6), 0, (0,))),
        start(40, item(1, 0, (), 0, (0,))),
        start(40, item(1, 1, (), 0, (0,))),
        start(40, item(2, 2, (), 5)),
        start(40, item(3, 1, (5,), 0)),
        start(40, item(4, 1, (), 3)),
        start(40, FIRST, item(99, 1, (5,), 0, (2,))),
        advance(),
        advance(30, 30),
        advance(99),
        advance(20),
        advance(30, until=Cursor(4)),
        advance(30, until=Cursor(0, Stage.EXPERTS, 9)),
        advance(30, until=Cursor(0, Stage.ATTENTION, 1)),
        advance(30, until=Cursor(3, Stage.EXPERTS)),
    ],
    ids=lambda order: " ".join(str(order).split()),
)
def test_what_the_real_worker_refuses_is_refused_in_its_words_and_changes_nothing(
    order: Command | Advance,
) -> None:
    executors = (simulated(), real())
    for earlier in SETTING:
        assert len({carry_out(executor, earlier) for executor in executors}) == 1
    ours, theirs = (carry_out(executor, order) for executor in executors)
    assert ours == theirs
    assert ours != "done"
    after: list[Command | Advance] = [start(40, FIRST), advance(40, 30), restore(4, 15), add(6, shared_block_ids=[10])]
    for later in [*after, fork(5, 2, 14)]:
        ours, theirs = (carry_out(executor, later) for executor in executors)
        assert ours == theirs


@pytest.mark.parametrize("seed", range(6))
def test_any_commands_are_taken_and_refused_as_the_real_worker_does(seed: int) -> None:
    rng = Random(seed)
    ours, theirs = simulated(), real()
    outcomes = []
    positions: dict[int, int] = {}
    for number in range(300):
        order = _random_order(rng, number, positions)
        outcomes.append(carry_out(ours, order))
        assert outcomes[-1] == carry_out(theirs, order), order
    assert len(set(outcomes)) > 10
    ours.forget_all()
    assert (ours.blocks.num_free_blocks, ours.blocks.num_free_host_blocks) == (NUM_BLOCKS, NUM_HOST_BLOCKS)


def _random_order(rng: Random, number: int, positions: dict[int, int]) -> Command | Advance:
    """A command that may well be refused: ids are few, and positions only guessed."""
    seq_id, batch_id = rng.randrange(4), rng.randrange(3)
    free = tuple(rng.sample(range(NUM_BLOCKS), rng.randrange(3)))
    kind = rng.randrange(12)
    if kind < 3:
        layer = rng.randrange(FACTS.num_layers)
        inside = Cursor(layer, Stage.EXPERTS, rng.randrange(3))
        return advance(*{batch_id, rng.randrange(3)}, until=rng.choice([END, END, inside]))
    if kind < 6:
        first = positions.get(seq_id, 0)
        token_ids = () if first and rng.random() < 0.7 else (5 + number % 7, 6)
        positions[seq_id] = first + (len(token_ids) or 1)
        return start(batch_id, item(seq_id, len(token_ids) or 1, token_ids, first, free))
    if kind == 6:
        positions.pop(seq_id, None)
        return drop(seq_id)
    if kind > 9:
        return _random_sharing(rng, seq_id, free, positions)
    others: list[Command] = [offload(seq_id), restore(seq_id, *free), drop_batch(batch_id)]
    return rng.choice([*[add(seq_id, max_tokens=rng.randint(1, 4))] * 2, *others])


def _random_sharing(rng: Random, seq_id: int, blocks: tuple[int, ...], positions: dict[int, int]) -> Command:
    """A command that has a sequence begin with what another has, or come back to it."""
    if rng.random() < 0.3:
        return restore(seq_id, *blocks, num_shared=1)
    if rng.random() < 0.5:
        positions[seq_id] = len(blocks) * BLOCK_SIZE
        return add(seq_id, max_tokens=rng.randint(1, 4), shared_block_ids=blocks)
    positions[seq_id] = positions.get(3 - seq_id, 0)
    return fork(seq_id, 3 - seq_id, *blocks[:1])


def test_a_sequence_that_ended_is_passed_over_in_the_iteration_begun_ahead_of_its_end() -> None:
    for executor in (simulated(), real()):
        for order in (add(1, max_tokens=1), add(2), start(1, item(1, 2, (5, 6), 0, (0,)), item(2, 2, (7, 8), 0, (1,)))):
            executor.apply(order)
        assert carry_out(executor, advance(1)) == ends([(1, LENGTH), (2, None)])
        executor.apply(start(2, item(1, 1, (), 2), item(2, 1, (), 2)))
        assert carry_out(executor, advance(2)) == ends([(2, None)])
        executor.apply(start(3, item(1, 1, (), 2)))
        result = executor.advance(advance(3), always)
        assert (result.reached, len(result.tokens)) == (END, 0)
        assert carry_out(executor, drop_batch(3)) == "batch 3 is not known"


def test_a_sequence_dropped_inside_a_suspended_batch_frees_its_blocks_and_the_others_go_on() -> None:
    for executor in (simulated(), real()):
        for order in (add(1), add(2), start(1, item(1, 2, (5, 6), 0, (0,)), item(2, 2, (7, 8), 0, (1,)))):
            executor.apply(order)
        executor.advance(advance(1, until=Cursor(1, Stage.EXPERTS, 1)), always)
        executor.apply(drop(1))
        executor.apply(add(3))
        executor.apply(start(2, item(3, 1, (5,), 0, (0,))))
        assert carry_out(executor, advance(1, 2)) == ends([(2, None), (3, None)])


def test_same_prompt_gives_the_same_tokens_whoever_computes_them_and_in_whatever_pieces() -> None:
    executor = simulated()
    executor.apply(add(1, max_tokens=8))
    whole = generate(executor, 1, (5, 6, 7), 8)
    # Another life of the worker: it is told the prompt, and the tokens that it generated before.
    executor.apply(add(2, max_tokens=8, num_output_tokens=3))
    assert generate(executor, 2, (5, 6, 7, *whole[:3]), 5) == whole[3:]
    executor.apply(add(3, max_tokens=8))
    assert generate(executor, 3, (5, 6, 8), 8) != whole


def test_whoever_shares_blocks_of_a_beginning_goes_on_as_whoever_computed_all_of_it() -> None:
    prompt = tuple(range(5, 16))
    for sampling in (GREEDY, Sampling(temperature=1.0, seed=3)):
        executor = simulated(num_disk_blocks=3)
        executor.apply(add(1, max_tokens=8, sampling=Sampling(temperature=1.0, seed=9)))
        executor.apply(start(1, item(1, 11, prompt, 0, (11, 9, 12))))
        executor.advance(advance(1), always)
        executor.apply(add(2, max_tokens=8, sampling=sampling))
        expected = generate(executor, 2, prompt, 8)
        executor.apply(add(3, max_tokens=8, sampling=sampling, shared_block_ids=(11, 9)))
        executor.apply(start(3, item(3, 2, prompt[8:10], 8, (0,))))  # a token short of the prompt
        executor.advance(advance(3), always)
        for seq_id, blocks in ((4, (1,)), (5, (3,))):
            executor.apply(add(seq_id, max_tokens=8, sampling=sampling, num_output_tokens=0))
            executor.apply(fork(seq_id, 3, *blocks))
        executor.apply(offload(4, Tier.DISK))
        executor.apply(drop(1))
        executor.apply(restore(4, 11, 9, 6, num_shared=2))
        for seq_id in (4, 5):
            executor.apply(start(10 + seq_id, item(seq_id, 1, prompt[10:], 10)))
            (token,) = executor.advance(advance(10 + seq_id), always).tokens
            assert token.token_id == expected[0]
        executor.blocks.check_integrity()


def test_seed_counts_unless_the_choice_is_greedy() -> None:
    executor = simulated()
    outputs = []
    for seq_id, (temperature, seed) in enumerate([(0.0, 1), (0.0, 2), (1.0, 1), (1.0, 2), (1.0, 2)], start=1):
        sampling = Sampling(temperature=temperature, seed=seed)
        executor.apply(add(seq_id, max_tokens=6, sampling=sampling))
        outputs.append(generate(executor, seq_id, (5, 6, 7), 6))
    assert outputs[0] == outputs[1]
    assert outputs[2] != outputs[3] == outputs[4]


def test_stop_token_ends_a_sequence_once_its_minimum_is_reached() -> None:
    executor = simulated(vocabulary=range(7, 9))
    executor.apply(add(1, max_tokens=30))
    free = generate(executor, 1, (5,), 30)
    assert set(free) == {7, 8}
    executor.apply(add(2, max_tokens=30, stop_token_ids=[8]))
    assert generate(executor, 2, (5,), 30) == free[: free.index(8) + 1]
    executor.apply(add(3, max_tokens=30, stop_token_ids=[8], min_tokens=10))
    late = generate(executor, 3, (5,), 30)
    assert len(late) > 10
    assert late[:10] == [7] * 10


def test_abandoned_batches_are_reported_with_their_sequences_and_forgotten() -> None:
    executor = simulated()
    for order in (add(1), start(1, item(1, 2, (5, 6), 0, (0,)))):
        executor.apply(order)
    errors = executor.abandon([1], "ValueError: shape")
    assert [(error.batch_id, list(error.seq_ids)) for error in errors] == [(1, [1])]
    with pytest.raises(CommandRefused):
        executor.advance(advance(1), always)
    executor.apply(start(2, item(1, 2, (5, 6), 0)))


@pytest.mark.parametrize("make", [simulated, real])
def test_nothing_of_an_epoch_is_left_after_it(make: Callable[[], Executor]) -> None:
    executor = make()
    for _ in range(2):
        for order in SETTING:
            carry_out(executor, order)
        executor.forget_all()
    assert carry_out(executor, drop(1)) == "sequence 1 is not known"


def test_moved_blocks_are_counted_in_the_next_result_and_in_no_other() -> None:
    executor = simulated()
    for order in SETTING:
        carry_out(executor, order)
    executor.apply(restore(4, 15))
    timings = [executor.advance(advance(30, until=Cursor(layer)), always).timing for layer in (1, 2)]
    assert [(timing.num_offloaded_blocks, timing.num_restored_blocks) for timing in timings] == [(1, 1), (0, 0)]
