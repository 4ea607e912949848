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
from scheduler_svc.text.formats.grammar import PLAIN, AnswerGrammar
from scheduler_svc.text.formats.pieces import Function
from scheduler_svc.text.formats.table import Formats
from tests.support.service.fakes import served_model

MODEL = served_model(eos_token_ids=(1, 2))
SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}})


def calls_of(*functions: Function, must_call: bool = True) -> AnswerGrammar:
    """Returns what an answer may be that calls functions as Hermes does."""
    return AnswerGrammar(Formats.of("<tool_call>"), functions, must_call=must_call)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def grammar_of(runner: asyncio.Runner) -> Iterator[Callable[..., str]]:
    """Judges structures with one process that tries their grammars."""
    grammars = GrammarChecker(MODEL.tokenizer_json, MODEL.vocab_size, MODEL.eos_token_ids, GrammarLimits(cpu_s=2.0))

    def judged(
        kind: StructureKind | None,
        *texts: str,
        stop_token_ids: tuple[int, ...] = (1, 2, 9),
        answer: AnswerGrammar = PLAIN,
    ) -> str:
        given = None if kind is None else StructureDraft(kind, texts)
        return runner.run(valid_grammar(given, MODEL, stop_token_ids, grammars, answer))

    yield judged
    grammars.close()


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (StructureKind.JSON_SCHEMA, (SCHEMA,)),
        (StructureKind.JSON_OBJECT, ("",)),
        (StructureKind.REGEX, (r"\\d{3}-[a-z]+",)),
        (StructureKind.REGEX, ("^a/b\\/c\n$",)),
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
        (StructureKind.REGEX, ("\\",), "can be followed"),
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
        with pytest.raises(InvalidRequest, match="false where an answer is kept to a structure") as refusal:
            grammar_of(StructureKind.REGEX, "a", stop_token_ids=stop_token_ids)
        assert (refusal.value.field, refusal.value.given) == ("stop.ignore_eos", True)
        with pytest.raises(InvalidRequest, match="false where an answer has to be calls") as refusal:
            grammar_of(None, stop_token_ids=stop_token_ids, answer=calls_of(Function("f")))
        assert refusal.value.field == "stop.ignore_eos"


@pytest.mark.parametrize(
    "text", ["{}", '{"grammars": []}', "{x", '{"grammars": [{"json_schema": {"type": "object"}}]}']
)
@pytest.mark.parametrize("template", ["", "<tool_call>", "<think>", "<|channel|>"])
def test_a_lark_text_that_looks_like_json_is_refused(grammar_of: Callable[..., str], template: str, text: str) -> None:
    answer = AnswerGrammar(Formats.of(template), [Function("f")] if "tool" in template else ())
    with pytest.raises(InvalidRequest, match="expecting rule") as refusal:
        grammar_of(StructureKind.LARK, text, answer=answer)
    assert refusal.value.field == "structure.lark"


def test_the_limit_of_grammars_counts_functions_and_structure_together(grammar_of: Callable[..., str]) -> None:
    functions = [Function(f"f{index}", {"properties": {"a": {"enum": ["x" * 30_000]}}}) for index in range(3)]
    for kind, texts in ((None, ()), (StructureKind.JSON_OBJECT, ("",))):
        answer = calls_of(*functions, must_call=kind is None)
        with pytest.raises(InvalidRequest, match="at most 65536 bytes as a grammar") as refusal:
            grammar_of(kind, *texts, answer=answer)
        assert refusal.value.field == "chat.tools"
    assert grammar_of(StructureKind.JSON_OBJECT, "", answer=calls_of(functions[0], must_call=False))


def test_a_structure_as_long_as_may_be_is_taken_beside_thoughts(grammar_of: Callable[..., str]) -> None:
    for template in ("", "<think>"):
        text = 'start: "a" // '.ljust(65_536, '"')
        assert grammar_of(StructureKind.LARK, text, answer=AnswerGrammar(Formats.of(template)))


def test_a_structure_is_judged_where_the_answer_has_to_be_calls(grammar_of: Callable[..., str]) -> None:
    answer = calls_of(Function("f"))
    for kind, text in (
        (StructureKind.JSON_SCHEMA, '{"type": "nonsense"}'),
        (StructureKind.JSON_SCHEMA, '{"a": "\\ud800"}'),
        (StructureKind.LARK, "{}"),
        (StructureKind.REGEX, "x" * 65_537),
    ):
        with pytest.raises(InvalidRequest) as refusal:
            grammar_of(kind, text, answer=answer)
        assert refusal.value.field == f"structure.{kind}"
    assert grammar_of(StructureKind.JSON_SCHEMA, SCHEMA, answer=answer) == grammar_of(None, answer=answer)


@pytest.mark.parametrize("num_functions", [1, 2, 5, 16])
@pytest.mark.parametrize("must_call", [True, False])
def test_a_function_that_can_not_be_followed_is_named(
    grammar_of: Callable[..., str], num_functions: int, must_call: bool
) -> None:
    bad = num_functions // 2
    functions = [
        Function(f"f{index}", {"properties": {"a": {"uniqueItems": True} if index == bad else {}}})
        for index in range(num_functions)
    ]
    kind, texts = (None, ()) if must_call else (StructureKind.CHOICES, ("yes",))
    with pytest.raises(InvalidRequest) as refusal:
        grammar_of(kind, *texts, answer=calls_of(*functions, must_call=must_call))
    assert (refusal.value.field, refusal.value.given) == ("chat.tools", f"f{bad}")
    assert refusal.value.allowed.endswith('Unimplemented keys: ["uniqueItems"]')
    assert "%json" not in refusal.value.allowed


def test_a_structure_is_blamed_for_itself_beside_functions(grammar_of: Callable[..., str]) -> None:
    for functions in ((), (Function("f", {"uniqueItems": True}),)):
        with pytest.raises(InvalidRequest) as refusal:
            grammar_of(StructureKind.CHOICES, answer=calls_of(*functions, must_call=False))
        assert refusal.value.field == "structure.choices"
    with pytest.raises(InvalidRequest, match="look-ahead") as refusal:
        grammar_of(StructureKind.REGEX, "(?=a)b", answer=calls_of(Function("f"), must_call=False))
    assert refusal.value.field == "structure.regex"


@pytest.mark.parametrize("reason", ["", "the model is held by several ranks"])
async def test_a_model_that_keeps_no_text_to_a_structure_says_why(reason: str) -> None:
    model = replace(MODEL, no_structure_reason=reason)
    with pytest.raises(InvalidRequest, match=reason or "no tokenizer"):
        await valid_grammar(StructureDraft(StructureKind.REGEX, ("a",)), model, (1, 2), None)


def test_choices_have_any_characters(grammar_of: Callable[..., str]) -> None:
    assert grammar_of(StructureKind.CHOICES, "\x7f", "\0", "\\", "🙂")
