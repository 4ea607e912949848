"""A text is kept to its structure token by token, whoever follows it, and ends when it is whole."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from llguidance import LLMatcher
from qllm.grammar import grammar_problem

from gpu_worker.contract.commands import Sampling
from gpu_worker.sampling.draw import Draw
from gpu_worker.sampling.guide import Guide
from gpu_worker.sampling.rules import Rules
from gpu_worker.sampling.ruling import ruled
from gpu_worker.sampling.sampler import Choice, NoChoice, sample
from tests.support.models.sample_tokenizers import EOS_ID
from tests.support.worker.guided import allowed, guides, tokenizer

CHOICES = LLMatcher.grammar_from_lark('start: "yes" | "no"')
ENTITY = LLMatcher.grammar_from_json_schema(
    json.dumps(
        {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
    ),
    overrides={"whitespace_pattern": ""},
)


def random_text(grammar: str, seed: int) -> tuple[str, list[int]]:
    """Follows a guide by random tokens to the end."""
    guide, random, token_ids = guides().guide(grammar), torch.Generator().manual_seed(seed), list[int]()
    while not token_ids or token_ids[-1] != EOS_ID:
        choices = sorted(allowed(guide))
        token_ids.append(choices[int(torch.randint(len(choices), (1,), generator=random))])
        guide.accept(token_ids[-1])
    return tokenizer().decode(token_ids[:-1]), token_ids


def test_only_tokens_that_lead_to_the_structure_may_come() -> None:
    guide = guides().guide(CHOICES)
    starts = {tokenizer().decode([token_id]) for token_id in allowed(guide)}
    assert starts <= {"y", "ye", "yes", "n", "no"}
    assert {"y", "n"} <= starts


def test_the_end_token_alone_may_come_behind_a_whole_text() -> None:
    for text in ("yes", "no"):
        guide = guides().guide(CHOICES, tokenizer().encode(text, add_special_tokens=False).ids)
        assert allowed(guide) == {EOS_ID}


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_chosen_the_text_is_of_the_structure(seed: int) -> None:
    text, _ = random_text(ENTITY, seed)
    value = json.loads(text)
    assert set(value) == {"name", "age"}
    assert isinstance(value["age"], int)
    assert len(value["name"]) <= 8


def test_a_guide_that_begins_in_the_middle_stands_where_one_stands_that_was_there_all_the_time() -> None:
    _, token_ids = random_text(ENTITY, 3)
    whole = guides().guide(ENTITY)
    for length, token_id in enumerate(token_ids):
        assert allowed(guides().guide(ENTITY, token_ids[:length])) == allowed(whole)
        whole.accept(token_id)


def test_a_copy_goes_its_own_way() -> None:
    first = guides().guide(CHOICES)
    second = first.copy()
    first.accept(tokenizer().token_to_id("y"))
    assert tokenizer().token_to_id("n") in allowed(second)
    assert tokenizer().token_to_id("n") not in allowed(first)


def test_rows_are_kept_to_their_own_structures_and_others_to_none() -> None:
    rows = torch.randn(4, tokenizer().get_vocab_size(), generator=torch.Generator().manual_seed(1))
    sampling = Sampling(grammar=CHOICES)
    given = [guides().guide(CHOICES), None, guides().guide(ENTITY), guides().guide(CHOICES)]
    draws = [Draw(Sampling(), 0, rules=Rules(sampling, guide=guide) if guide else None) for guide in given]
    changed = ruled(rows, draws)
    for row, guide in enumerate(given):
        left = set(changed[row].isfinite().nonzero()[:, 0].tolist())
        assert left == (allowed(guide) if guide else set(range(rows.shape[1])))
    assert all(isinstance(choice, Choice) for choice in sample(rows, draws))


def test_a_token_that_does_not_fit_is_said_and_others_do_not_notice() -> None:
    broken, whole = guides().guide(CHOICES, (5, 6)), guides().guide(CHOICES)
    rows = torch.zeros(2, tokenizer().get_vocab_size())
    sampling = Sampling(grammar=CHOICES)
    first, second = sample(rows, [Draw(sampling, 0, rules=Rules(sampling, guide=guide)) for guide in (broken, whole)])
    assert isinstance(first, NoChoice)
    assert "structure" in first.reason
    assert isinstance(second, Choice)


HOSTILE = {
    "many repeats": LLMatcher.grammar_from_regex("a{100000}"),
    "repeats of repeats": LLMatcher.grammar_from_regex("((a{1,500}){1,500}b?){1,500}"),
    "many alternatives": LLMatcher.grammar_from_regex("|".join(f"x{i}.*y{i}" for i in range(2000))),
    "backtracking": LLMatcher.grammar_from_regex("(a|aa)*" * 200 + "b"),
    "dots": LLMatcher.grammar_from_regex(".*a.{200}b.*" * 3),
    "ambiguous": LLMatcher.grammar_from_lark('start: s\ns: s s | "a" | '),
    "endless": LLMatcher.grammar_from_lark("start: start"),
    "deep": LLMatcher.grammar_from_lark("start: " + "(" * 3000 + '"a"' + ")" * 3000),
    "wide": LLMatcher.grammar_from_json_schema(
        json.dumps({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(2000)}})
    ),
    "nested": LLMatcher.grammar_from_json_schema('{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}'),
    "pattern": LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "pattern": "^(a+)+(b*)*c{1,9000}$"})),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("grammar", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_grammar_is_refused_or_followed_in_bounded_time(grammar: str) -> None:
    if grammar_problem(grammar):
        return
    guide = guides().guide(grammar)
    for _ in range(20):
        choices = allowed(guide)
        if not choices:
            assert guide.problem
            return
        guide.accept(min(choices))


def test_a_structure_that_takes_long_ends_rather_than_hold_others_up() -> None:
    following, times_s = ThreadPoolExecutor(1), itertools.count(0.0, 0.3)
    begun = guides().guide(LLMatcher.grammar_from_regex("a{60}"))
    slow = Guide(following, begun._state, lambda: next(times_s))
    token_id = tokenizer().token_to_id("a")
    for _ in range(3):
        slow.accept(token_id)
        assert not slow.problem
    slow.accept(token_id)
    assert "too long" in slow.problem
    assert allowed(slow) == set()
    slow.accept(token_id)
    assert "too long" in slow.problem
