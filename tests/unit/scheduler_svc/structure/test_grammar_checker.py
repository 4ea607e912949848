"""Grammars are tried in a process of their own: what takes too much costs that process alone."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator

import pytest
from llguidance import LLMatcher

from scheduler_svc.structure.grammar_checker import GrammarChecker, GrammarLimits, GrammarsUnavailable
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer

LIMITS = GrammarLimits(cpu_s=1.0)
GOOD = LLMatcher.grammar_from_regex("[a-z]{3}")
LONG_S = 60.0


def intersections(most: int) -> str:
    """A grammar of some hundred bytes that takes seconds, or gigabytes, to prepare."""
    regexes = " & ".join(f"/(.*[a-z]{{{n}}}[^a]*)/" for n in range(2, most))
    return LLMatcher.grammar_from_lark(f"start: A\nA: {regexes}")


def patterns(most: int) -> str:
    """The same as a JSON schema."""
    schema = {"type": "string", "allOf": [{"pattern": f"[a-z]{{{n}}}[^a]*$"} for n in range(2, most)]}
    return LLMatcher.grammar_from_json_schema(json.dumps(schema))


@pytest.fixture
async def checker() -> AsyncIterator[GrammarChecker]:
    tokenizer = byte_level_tokenizer()
    checker = GrammarChecker(tokenizer.to_str().encode(), tokenizer.get_vocab_size() + 30, (EOS_ID,), LIMITS)
    yield checker
    checker.close()


async def test_a_grammar_that_can_be_followed_has_no_problem(checker: GrammarChecker) -> None:
    assert await checker.problem(GOOD) == ""


@pytest.mark.parametrize(
    ("grammar", "problem"),
    [
        (LLMatcher.grammar_from_lark("start: nothing"), "unknown name"),
        (LLMatcher.grammar_from_lark("start: <|unknown|>"), "unknown special token"),
        (LLMatcher.grammar_from_regex(r"[^\s\S]"), ""),
        (intersections(26), "takes"),
        (patterns(26), "takes"),
    ],
    ids=["unknown name", "unknown token", "no text", "intersections", "patterns"],
)
async def test_what_can_not_be_followed_or_takes_too_much_is_said(
    checker: GrammarChecker, grammar: str, problem: str
) -> None:
    assert await checker.problem(GOOD) == ""
    pid, began_s = checker.pid, time.monotonic()
    said = await checker.problem(grammar)
    assert said
    assert problem in said
    assert time.monotonic() - began_s < LONG_S
    assert await checker.problem(GOOD) == ""
    assert checker.pid == pid  # the tokenizer is not read again


async def test_a_grammar_is_tried_once_however_many_ask(checker: GrammarChecker) -> None:
    slow = intersections(26)
    answers = await asyncio.gather(*(checker.problem(slow) for _ in range(20)))
    assert len(set(answers)) == 1
    began_s = time.monotonic()
    await checker.problem(slow)
    assert time.monotonic() - began_s < LIMITS.cpu_s


async def test_the_event_loop_goes_on_meanwhile(checker: GrammarChecker) -> None:
    await checker.problem(GOOD)
    asked = asyncio.ensure_future(checker.problem(intersections(26)))
    turns = 0
    while not asked.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 5


async def test_who_leaves_takes_nobodys_answer_along(checker: GrammarChecker) -> None:
    leaving = asyncio.ensure_future(checker.problem(GOOD))
    staying = asyncio.ensure_future(checker.problem(GOOD))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == ""
    assert await checker.problem(LLMatcher.grammar_from_regex("b")) == ""


async def test_a_process_that_is_killed_is_started_again(checker: GrammarChecker) -> None:
    await checker.problem(GOOD)
    assert checker.pid is not None
    os.kill(checker.pid, 9)
    with pytest.raises(GrammarsUnavailable) as error:
        await checker.problem(LLMatcher.grammar_from_regex("c"))
    assert error.value.retry_after_s
    assert await checker.problem(LLMatcher.grammar_from_regex("c")) == ""


async def test_a_tokenizer_of_another_kind_is_said_to_be_of_no_use() -> None:
    checker = GrammarChecker(b'{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}', 10, (1,), LIMITS)
    with pytest.raises(GrammarsUnavailable, match="tokenizer"):
        await checker.problem(GOOD)


async def test_no_more_wait_than_may() -> None:
    tokenizer = byte_level_tokenizer()
    limits = GrammarLimits(most_waiting=2)
    checker = GrammarChecker(tokenizer.to_str().encode(), tokenizer.get_vocab_size(), (EOS_ID,), limits)
    waiting = [asyncio.ensure_future(checker.problem(LLMatcher.grammar_from_regex(text))) for text in "ab"]
    await asyncio.sleep(0)
    with pytest.raises(GrammarsUnavailable, match="allowed are 2"):
        await checker.problem(GOOD)
    assert await asyncio.gather(*waiting) == ["", ""]
    checker.close()


async def test_a_grammar_that_the_library_can_not_read_at_all_is_not_called_good(checker: GrammarChecker) -> None:
    assert await checker.problem(GOOD) == ""
    pid = checker.pid
    for unreadable in ('start: "\ud83d"', None):
        assert (await checker._exchange({"grammar": unreadable}))["problem"]
    assert await checker.problem(GOOD) == ""
    assert checker.pid == pid
