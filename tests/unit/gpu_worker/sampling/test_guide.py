"""A text is kept to its structure token by token, whoever follows it, and ends when it is whole."""

import itertools
import json
from concurrent.futures import Future

import pytest
import torch
from llguidance import LLMatcher

from gpu_worker.contract.commands import Sampling
from gpu_worker.machine.daemon import Daemon
from gpu_worker.sampling.draw import Draw
from gpu_worker.sampling.guide import Guide, Guides
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


def test_a_grammar_that_can_not_be_followed_is_said_and_ends_nobody_else() -> None:
    broken, whole = guides().guide(LLMatcher.grammar_from_lark("start: nothing")), guides().guide(CHOICES)
    rows = torch.zeros(2, tokenizer().get_vocab_size())
    sampling = Sampling(grammar=CHOICES)
    first, second = sample(rows, [Draw(sampling, 0, rules=Rules(sampling, guide=guide)) for guide in (broken, whole)])
    assert isinstance(first, NoChoice)
    assert "unknown name" in first.reason
    assert isinstance(second, Choice)


def test_a_tokenizer_that_can_not_be_read_is_said_at_the_start_and_ends_nobody_else() -> None:
    words = Guides(b'{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}', 10, (1,))
    assert "tokenizer" in words.get_ready()
    assert words.guide(CHOICES).problem
    assert Guides(b"", 10, (1,)).get_ready() == "the model has no tokenizer"
    assert guides().get_ready() == ""


def test_an_end_token_that_the_tokenizer_lacks_is_no_problem() -> None:
    size = tokenizer().get_vocab_size()
    assert Guides(tokenizer().to_str().encode(), size + 40, (EOS_ID, size + 20)).get_ready() == ""


def test_a_grammar_that_is_not_ready_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_worker.sampling.guide._LONGEST_WAIT_S", 0.01)
    late = Guide(Daemon("test"), Future())
    assert allowed(late) == set()
    assert "not ready" in late.problem


def test_a_text_that_is_whole_may_end_before_it_has_as_many_tokens_as_it_should() -> None:
    guide = guides().guide(CHOICES, tokenizer().encode("yes", add_special_tokens=False).ids)
    assert guide.is_whole
    assert not guides().guide(CHOICES).is_whole


def test_a_structure_that_takes_long_ends_rather_than_hold_others_up() -> None:
    times_s = itertools.count(0.0, 0.1)
    begun = guides().guide(LLMatcher.grammar_from_regex("a{60}"))
    slow = Guide(Daemon("test"), begun._state, lambda: next(times_s))
    token_id = tokenizer().token_to_id("a")
    for _ in range(2):
        slow.accept(token_id)
        assert not slow.problem
    slow.accept(token_id)
    assert "too long" in slow.problem
    assert allowed(slow) == set()
    slow.accept(token_id)
    assert "too long" in slow.problem
