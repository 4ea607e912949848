"""What workers do for searches and choices: candidates instead of a token, tokens for others, forks of caches.

By the model and by the simulated worker alike.
"""

from collections.abc import Iterator, Sequence

import pytest
import torch

from gpu_worker.contract.commands import (
    AddSequence,
    Advance,
    BatchItem,
    Command,
    DropSequence,
    ForkSequence,
    StartBatch,
)
from gpu_worker.contract.commands import Sampling as HowToSample
from gpu_worker.contract.executor import Executor
from gpu_worker.contract.results import Candidate, SampledToken
from gpu_worker.cursor import Cursor
from gpu_worker.errors import CommandRefused, SequenceRefused
from gpu_worker.execution.forgiving import ForgivingExecutor
from tests.unit.gpu_worker.simulated.test_executor import END, FACTS, always, real, simulated

PROMPT = (5, 6, 7, 8, 9, 10)
BLOCKS = (0, 1)
SEARCHING = HowToSample(num_candidates=3)


@pytest.fixture(autouse=True)
def _engine_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


@pytest.fixture(params=["real", "simulated"])
def executor(request: pytest.FixtureRequest) -> Executor:
    return real() if request.param == "real" else simulated()


def carry_out(executor: Executor, *commands: Command) -> None:
    for command in commands:
        executor.apply(command)


def run(executor: Executor, batch_id: int, *items: BatchItem, until: Cursor = END) -> dict[int, SampledToken]:
    executor.apply(StartBatch(batch_id, items))
    outcome = executor.advance(Advance(batch_id, (batch_id,), until), always)
    assert not outcome.batch_errors
    return {token.seq_id: token for token in outcome.tokens}


def about(candidates: Sequence[Candidate]) -> list[object]:
    """Candidates but for roundings."""
    return [pytest.approx(one, abs=1e-4) for one in candidates]


def seeded(seed: int) -> HowToSample:
    return HowToSample(temperature=1.0, seed=seed)


def add(seq_id: int, sampling: HowToSample, *outputs: int) -> AddSequence:
    return AddSequence(seq_id, sampling, (), 9, num_output_tokens=len(outputs), output_token_ids=outputs)


def first_token(sampling: HowToSample, executor: Executor) -> int:
    """That of a sequence that has the prompt by itself."""
    executor.apply(add(99, sampling))
    token = run(executor, 99, BatchItem(99, 6, PROMPT, 0, (6, 7)))[99].token_id
    executor.apply(DropSequence(99))
    return token


def test_a_sequence_that_searches_tells_candidates_and_goes_on_with_the_token_that_it_is_given(
    executor: Executor,
) -> None:
    carry_out(executor, add(1, SEARCHING))
    told = run(executor, 1, BatchItem(1, 6, PROMPT, 0, BLOCKS))[1]
    assert len(told.candidates) == 3
    assert (told.token_id, told.finish_reason) == (told.candidates[0].token_id, None)
    second = told.candidates[1].token_id
    again = run(executor, 2, BatchItem(1, 1, (second,), 6))[1]
    carry_out(executor, add(2, SEARCHING, second))  # as after a loss: both tokens are told
    whole = run(executor, 3, BatchItem(2, 7, (*PROMPT, second), 0, (2, 3)))[2]
    assert list(whole.candidates) == about(again.candidates)


def test_a_fork_has_its_parents_cache_and_its_own_tokens(executor: Executor) -> None:
    carry_out(executor, add(1, SEARCHING))
    first, second, _ = (one.token_id for one in run(executor, 1, BatchItem(1, 6, PROMPT, 0, BLOCKS))[1].candidates)
    carry_out(executor, add(2, SEARCHING, second), ForkSequence(2, 1, (2,)))
    both = run(executor, 2, BatchItem(1, 1, (first,), 6), BatchItem(2, 1, (second,), 6))
    carry_out(executor, add(3, SEARCHING, second))
    alone = run(executor, 3, BatchItem(3, 7, (*PROMPT, second), 0, (4, 5)))
    assert list(both[2].candidates) == about(alone[3].candidates)


def test_others_have_their_first_token_from_the_same_logits_each_by_its_seed(executor: Executor) -> None:
    expected = [first_token(seeded(seed), executor) for seed in (1, 2, 3)]
    carry_out(executor, *(add(seq_id, seeded(seq_id)) for seq_id in (1, 2, 3)))
    tokens = run(executor, 1, BatchItem(1, 6, PROMPT, 0, BLOCKS, also_sampled_ids=(2, 3)))
    assert [tokens[seq_id].token_id for seq_id in (1, 2, 3)] == expected
    carry_out(executor, ForkSequence(2, 1, (2,)))
    after = run(executor, 2, BatchItem(2, 1, (), 6))[2]  # it begins with the token that it has sampled
    carry_out(executor, add(4, seeded(2), expected[1]))
    assert after.token_id == run(executor, 3, BatchItem(4, 7, (*PROMPT, expected[1]), 0, (4, 5)))[4].token_id


def test_one_that_is_dropped_meanwhile_is_passed_over_and_all_are_with_the_one_that_has_the_prompt(
    executor: Executor,
) -> None:
    carry_out(executor, *(add(seq_id, seeded(seq_id)) for seq_id in (1, 2, 3, 4)))
    executor.apply(StartBatch(1, [BatchItem(1, 6, PROMPT, 0, BLOCKS, also_sampled_ids=(2, 3))]))
    executor.apply(DropSequence(2))
    assert {token.seq_id for token in executor.advance(Advance(1, (1,), END), always).tokens} == {1, 3}
    carry_out(executor, add(5, seeded(5)))
    items = [BatchItem(4, 6, PROMPT, 0, (2, 3), also_sampled_ids=(5,)), BatchItem(1, 1, (), 6)]
    executor.apply(StartBatch(2, items))
    executor.apply(DropSequence(4))
    assert {token.seq_id for token in executor.advance(Advance(2, (2,), END), always).tokens} == {1}


def test_one_that_is_not_known_or_has_begun_cannot_be_sampled_beside_another(executor: Executor) -> None:
    carry_out(executor, add(1, seeded(1)), add(2, seeded(2)))
    run(executor, 1, BatchItem(2, 6, PROMPT, 0, BLOCKS))
    for seq_id, words in ((9, "sequence 9 is not known"), (2, "sequence 2 has begun already")):
        with pytest.raises(SequenceRefused, match=words) as refusal:
            executor.apply(StartBatch(2, [BatchItem(1, 6, PROMPT, 0, (2, 3), also_sampled_ids=(seq_id,))]))
        assert refusal.value.seq_id == seq_id
    for also in ((1,), (3, 3)):
        carry_out(executor, add(3, seeded(3)))
        with pytest.raises(CommandRefused, match="names a sequence twice"):
            executor.apply(StartBatch(2, [BatchItem(1, 6, PROMPT, 0, (2, 3), also_sampled_ids=also)]))
        executor.apply(DropSequence(3))


def test_one_that_has_begun_is_left_out_in_its_own_name_and_the_others_get_their_tokens(executor: Executor) -> None:
    forgiving = ForgivingExecutor(executor, FACTS.num_layers)
    carry_out(forgiving, *(add(seq_id, seeded(seq_id)) for seq_id in (1, 2, 3)))
    run(forgiving, 1, BatchItem(2, 6, PROMPT, 0, BLOCKS))
    forgiving.apply(StartBatch(2, [BatchItem(1, 6, PROMPT, 0, (2, 3), also_sampled_ids=(2, 3, 9))]))
    outcome = forgiving.advance(Advance(2, (2,), END), always)
    assert {token.seq_id for token in outcome.tokens} == {1, 3}
    assert {error.seq_id for error in outcome.sequence_errors} == {2, 9}


def test_one_that_is_left_out_is_passed_over_and_the_others_get_their_tokens(executor: Executor) -> None:
    forgiving = ForgivingExecutor(executor, FACTS.num_layers)
    carry_out(forgiving, add(1, seeded(1)), add(2, seeded(2)), add(3, HowToSample(repetition_penalty=-1.0)))
    tokens = run(forgiving, 1, BatchItem(1, 6, PROMPT, 0, BLOCKS, also_sampled_ids=(2, 3)))
    assert set(tokens) == {1, 2}
