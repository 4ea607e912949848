"""How probable the tokens of a prompt are is what transformers says, however the prompt is computed."""

from collections.abc import Callable, Sequence
from random import Random

import pytest
import torch

from gpu_worker.contract.commands import AddSequence, BatchItem, Sampling
from gpu_worker.contract.results import ScoredTokens
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused
from gpu_worker.sampling import scoring
from tests.support.models.families import VOCAB_SIZE, generated, random_model
from tests.support.worker.worker_driver import Driver, Story, loaded, random_prompts

FAMILIES = ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "granitemoe", "phimoe"]
PROMPTS = random_prompts((5, 23, 11), seed=8)
ALTERNATIVES = Sampling(num_prompt_alternatives=3)
TOLERANCE = 1e-4


def theirs(family: str, prompt: Sequence[int]) -> torch.Tensor:
    """Logarithms of probabilities behind each token of a prompt (T, V), by the model as it is."""
    with torch.inference_mode():
        return random_model(family)(torch.tensor([prompt])).logits[0].log_softmax(-1)


def check(family: str, story: Story, *, alternatives: int = 3) -> None:
    """Asserts that all tokens of a story's prompt but the first were scored, once each, as transformers has it."""
    expected, place = theirs(family, story.prompt), 1
    for part in story.scored:
        assert part.first_position == place
        assert tuple(part.token_ids) == story.prompt[place : place + len(part.token_ids)]
        rows = expected[place - 1 : place - 1 + len(part.token_ids)]  # (n, V)
        own = rows.gather(1, torch.tensor(part.token_ids)[:, None])  # (n, 1)
        torch.testing.assert_close(torch.tensor(part.logprobs), own[:, 0], atol=TOLERANCE, rtol=0)
        assert list(part.ranks) == ((rows > own).sum(-1) + 1).tolist()
        assert part.num_alternatives == alternatives
        best = rows.topk(alternatives)
        assert list(part.alternative_ids) == best.indices.flatten().tolist()
        told = torch.tensor(part.alternative_logprobs)
        torch.testing.assert_close(told, best.values.flatten(), atol=TOLERANCE, rtol=0)
        place += len(part.token_ids)
    assert place == len(story.prompt)


def saying(*answers: bool) -> Callable[[Cursor], bool]:
    """What answers an advance's questions in this order."""
    left = iter(answers)
    return lambda _: next(left)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_scored_as_by_transformers_and_continued_as_ever(family: str) -> None:
    driver = Driver(loaded(family), rng=Random(1))
    stories = [driver.add(prompt, 4, ALTERNATIVES, is_scored=True) for prompt in PROMPTS]
    driver.finish(*stories, chunk=4)
    for story in stories:
        check(family, story)
    assert tuple(story.token_ids for story in stories) == generated(family, PROMPTS, 4)
    driver.check_nothing_left()


def test_rows_go_through_the_head_in_groups_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_MOST_LOGITS", 4 * VOCAB_SIZE)
    driver = Driver(loaded())
    story = driver.add(PROMPTS[1], 1, ALTERNATIVES, is_scored=True)
    outcome = driver.advance(driver.start(story))
    check("mixtral", story)
    assert outcome.timing.head_rows == len(PROMPTS[1])


def test_a_batch_stops_between_groups_of_rows_and_others_run_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_MOST_LOGITS", 4 * VOCAB_SIZE)
    driver = Driver(loaded())
    story, other = driver.add(PROMPTS[1], 1, ALTERNATIVES, is_scored=True), driver.add(PROMPTS[0], 1)
    waiting = driver.start(story)
    last = Cursor(driver.end.layer - 1, Stage.EXPERTS, driver.runner.facts.experts_by_layer[-1])
    driver.advance(waiting, until=last)
    stops = 0
    while not story.is_over:
        outcome = driver.advance(waiting, goes_on=saying(True, False))
        if not story.is_over:
            assert outcome.reached == driver.cursor(waiting) == last
            assert outcome.suspended_bytes > 0
            stops += 1
            if stops == 2:
                driver.finish(other)
    assert stops == 6
    check("mixtral", story)
    assert (other.token_ids, story.token_ids) == generated("mixtral", PROMPTS, 1)[:2]


@pytest.mark.parametrize("family", ["mixtral", "qwen3"])  # the layers of one have experts
def test_a_head_that_is_left_tells_of_each_group_of_rows_with_its_time(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_MOST_LOGITS", 4 * VOCAB_SIZE)
    driver = Driver(loaded(family))
    story = driver.add(PROMPTS[1], 1, ALTERNATIVES, is_scored=True)
    batch = driver.start(story)
    if driver.runner.facts.experts_by_layer[-1]:
        driver.advance(batch, until=Cursor(driver.end.layer - 1, Stage.EXPERTS, 4))
    else:
        driver.advance(batch, until=Cursor(driver.end.layer - 1))
    timings = []
    while not story.is_over:
        asked = iter(range(100))
        heads = [bool(timing.head_rows) for timing in timings]
        most = 1 if any(heads) or driver.runner.facts.experts_by_layer[-1] else 2
        timings.append(driver.advance(batch, goes_on=lambda _, asked=asked, most=most: next(asked) < most).timing)
    told = [timing for timing in timings if timing.head_ns]
    assert [timing.head_rows for timing in told] == [1, 4, 4, 4, 4, 4, 2]
    assert [timing.num_heads for timing in told] == [1, 0, 0, 0, 0, 0, 0]
    assert sum(timing.num_attention_stages for timing in timings) == (family == "qwen3")
    assert all(bool(timing.num_attention_stages) == bool(timing.attention_ns) for timing in timings)


def test_a_layer_without_experts_is_left_in_the_head_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_MOST_LOGITS", 4 * VOCAB_SIZE)
    driver = Driver(loaded("qwen3"))
    story = driver.add(PROMPTS[1], 1, ALTERNATIVES, is_scored=True)
    batch = driver.start(story)
    num_cut = 0
    while not story.is_over:
        outcome = driver.advance(batch, goes_on=saying(True, True, False))
        num_cut += not story.is_over
        assert outcome.timing.num_attention_stages <= driver.end.layer
    assert num_cut > 2
    check("qwen3", story)


def test_scores_join_decodes_and_unscored_prompts_of_other_batches() -> None:
    driver = Driver(loaded("qwen3_moe"), rng=Random(2))
    plain, scored = driver.add(PROMPTS[1], 4), driver.add(PROMPTS[2], 4, ALTERNATIVES, is_scored=True)
    driver.advance(driver.start(plain))
    batches = driver.start(plain), driver.start(scored, chunk=6)
    outcome = driver.advance(*batches)
    assert not outcome.batch_errors
    driver.finish(plain, scored)
    check("qwen3_moe", scored)
    assert not plain.scored
    assert (plain.token_ids, scored.token_ids) == generated("qwen3_moe", PROMPTS, 4)[1:]


def test_a_sequence_that_is_dropped_or_offloaded_midway_changes_no_score_of_others() -> None:
    driver = Driver(loaded(), rng=Random(3))
    stays, goes = (driver.add(prompt, 1, ALTERNATIVES, is_scored=True) for prompt in PROMPTS[1:])
    driver.advance(driver.start(stays, chunk=8))
    driver.offload(stays)
    driver.restore(stays)
    batch = driver.start(stays, goes)
    driver.advance(batch, until=Cursor(driver.end.layer - 1, Stage.EXPERTS, 3))
    driver.drop(goes)
    driver.advance(batch)
    check("mixtral", stays)
    assert not goes.scored


def test_a_prompt_may_be_scored_without_a_token_behind_it() -> None:
    driver = Driver(loaded())
    story = driver.add(PROMPTS[2], 0, is_scored=True)
    item = driver._next_item(story, 100)
    driver.runner.start_batch(99, [item._replace(samples=False)])
    outcome = driver.runner.advance([99], driver.end)
    assert not outcome.tokens
    story.scored += outcome.scored
    check("mixtral", story, alternatives=0)


def test_logits_that_are_no_numbers_end_the_sequence_and_no_other() -> None:
    driver = Driver(loaded())
    bad, good = (driver.add(prompt, 1, is_scored=True) for prompt in PROMPTS[:2])
    batch = driver.start(bad, good)
    broken = scoring.Wish(bad.seq_id, driver.runner._batches[batch].members[0].span, bad.prompt[1:], 0)
    nothing = scoring.Scoring([broken], VOCAB_SIZE)
    nothing(lambda rows: torch.full((len(rows), VOCAB_SIZE), torch.nan))
    assert (nothing.scored, nothing.unscored_seq_ids) == ([], [bad.seq_id])
    driver.runner._batches[batch].scoring.unscored_seq_ids.append(bad.seq_id)
    outcome = driver.advance(batch)
    assert [error.seq_id for error in outcome.sequence_errors] == [bad.seq_id]
    check("mixtral", good, alternatives=0)


def test_more_tokens_to_score_than_rows_are_refused() -> None:
    driver = Driver(loaded())
    driver.runner.add_sequence(AddSequence(1, Sampling(), (), 1))
    for scored in ((5, 6, 7), (5, VOCAB_SIZE)):
        with pytest.raises(CommandRefused):
            driver.runner.start_batch(1, [BatchItem(1, 2, (3, 4), 0, (0,), True, scored)])


def test_scores_are_lists_that_the_wire_takes() -> None:
    driver = Driver(loaded())
    story = driver.add(PROMPTS[0], 1, ALTERNATIVES, is_scored=True)
    driver.finish(story)
    [part] = story.scored
    assert isinstance(part, ScoredTokens)
    assert {type(one) for one in (*part.logprobs, *part.alternative_logprobs)} == {float}
    assert {type(one) for one in (*part.ranks, *part.alternative_ids)} == {int}
