"""A structure becomes a grammar, or is refused with its field and what is wrong with it."""

import json

import pytest

from scheduler_svc.api.draft import StructureDraft, StructureKind
from scheduler_svc.api.structure import valid_grammar
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.generation import ServedModel
from scheduler_svc.text.threads import TextThreads
from tests.support.service.fakes import served_model

MODEL = served_model(eos_token_ids=(1, 2))
SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}})


async def grammar_of(
    kind: StructureKind, *texts: str, model: ServedModel = MODEL, stop_token_ids: tuple[int, ...] = (2,)
) -> str:
    threads = TextThreads()
    try:
        draft = StructureDraft(kind, texts)
        return await valid_grammar(draft, RequestClass.LATENCY_SENSITIVE, model, stop_token_ids, threads)
    finally:
        threads.close()


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
async def test_each_kind_becomes_a_grammar(kind: StructureKind, texts: tuple[str, ...]) -> None:
    assert await grammar_of(kind, *texts)


async def test_no_structure_is_no_grammar() -> None:
    assert await valid_grammar(None, RequestClass.BEST_EFFORT, MODEL, (), TextThreads()) == ""


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
async def test_what_can_not_be_followed_is_refused_with_the_reason(
    kind: StructureKind, texts: tuple[str, ...], allowed: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await grammar_of(kind, *texts)
    assert refusal.value.field == f"structure.{kind}"
    assert allowed in refusal.value.allowed
    assert len(str(refusal.value)) < 1000


async def test_a_text_that_nothing_could_end_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="ignore_eos"):
        await grammar_of(StructureKind.REGEX, "a", stop_token_ids=(7,))
    with pytest.raises(InvalidRequest, match="no tokenizer"):
        await grammar_of(StructureKind.REGEX, "a", model=served_model(tokenizer_json=b""))
