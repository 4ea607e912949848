"""A structure becomes a grammar, or is refused with its field and what is wrong with it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from scheduler_svc.api.draft import StructureDraft, StructureKind
from scheduler_svc.api.structure import valid_grammar
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.structure.grammar_checker import GrammarChecker, GrammarLimits
from tests.support.service.fakes import served_model

MODEL = served_model(eos_token_ids=(1, 2))
SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}})


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def grammar_of(runner: asyncio.Runner) -> Iterator[Callable[..., str]]:
    """Judges structures with one process that tries their grammars."""
    grammars = GrammarChecker(MODEL.tokenizer_json, MODEL.vocab_size, MODEL.eos_token_ids, GrammarLimits(cpu_s=2.0))

    def judged(kind: StructureKind, *texts: str, stop_token_ids: tuple[int, ...] = (1, 2, 9)) -> str:
        return runner.run(valid_grammar(StructureDraft(kind, texts), MODEL, stop_token_ids, grammars))

    yield judged
    grammars.close()


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (StructureKind.JSON_SCHEMA, (SCHEMA,)),
        (StructureKind.JSON_OBJECT, ("",)),
        (StructureKind.REGEX, (r"\\d{3}-[a-z]+",)),
        (StructureKind.CHOICES, ("yes", '"no"\n', "日本")),
        (StructureKind.LARK, ('start: "a" start | "b"',)),
    ],
)
def test_each_kind_becomes_a_grammar(
    grammar_of: Callable[..., str], kind: StructureKind, texts: tuple[str, ...]
) -> None:
    assert grammar_of(kind, *texts)


async def test_no_structure_is_no_grammar() -> None:
    assert await valid_grammar(None, MODEL, (), None) == ""


@pytest.mark.parametrize(
    ("kind", "texts", "allowed"),
    [
        (StructureKind.JSON_SCHEMA, ("{",), "a JSON schema"),
        (StructureKind.JSON_SCHEMA, ('{"type": "wrong"}',), "Invalid type"),
        (StructureKind.JSON_SCHEMA, ('{"not": {"type": "string"}}',), "Unimplemented keys"),
        (StructureKind.JSON_SCHEMA, ('{"$ref": "https://example.com/a"}',), "can be followed"),
        (StructureKind.REGEX, ("(",), "unclosed group"),
        (StructureKind.REGEX, ("(?=a)b",), "look-ahead"),
        (StructureKind.REGEX, ("",), "not empty"),
        (StructureKind.REGEX, ("x" * 65_537,), "at most 65536 bytes"),
        (StructureKind.CHOICES, (), "at least one text"),
        (StructureKind.CHOICES, ("a", ""), "none of them empty"),
        (StructureKind.CHOICES, ("a", "a"), "each once"),
        (StructureKind.LARK, ("start: nothing",), "unknown name"),
        (StructureKind.LARK, ("",), "not empty"),
    ],
)
def test_what_can_not_be_followed_is_refused_with_the_reason(
    grammar_of: Callable[..., str], kind: StructureKind, texts: tuple[str, ...], allowed: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        grammar_of(kind, *texts)
    assert refusal.value.field == f"structure.{kind}"
    assert allowed in refusal.value.allowed
    assert len(str(refusal.value)) < 1000


def test_a_text_that_nothing_could_end_is_refused(grammar_of: Callable[..., str]) -> None:
    for stop_token_ids in ((7,), (1,)):  # each of the model's end tokens may end the text, so each has to
        with pytest.raises(InvalidRequest, match="ignore_eos"):
            grammar_of(StructureKind.REGEX, "a", stop_token_ids=stop_token_ids)


@pytest.mark.parametrize("reason", ["", "the model is held by several ranks"])
async def test_a_model_that_keeps_no_text_to_a_structure_says_why(reason: str) -> None:
    model = replace(MODEL, no_structure_reason=reason)
    with pytest.raises(InvalidRequest, match=reason or "no tokenizer"):
        await valid_grammar(StructureDraft(StructureKind.REGEX, ("a",)), model, (1, 2), None)


def test_choices_have_any_characters(grammar_of: Callable[..., str]) -> None:
    assert grammar_of(StructureKind.CHOICES, "\x7f", "\0", "\\", "🙂")
