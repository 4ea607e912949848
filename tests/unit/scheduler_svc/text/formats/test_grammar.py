"""What a grammar lets through is read as calls, in every format, whether its marks are tokens of their own or not."""

import json
from collections.abc import Sequence

import pytest
from llguidance import LLMatcher
from qllm.grammar import LIMITS

from scheduler_svc.text.formats.bare_json import BareJson
from scheduler_svc.text.formats.grammar import AnswerGrammar
from scheduler_svc.text.formats.grammar_parts import Grammar, LarkText
from scheduler_svc.text.formats.pieces import Found, Function
from scheduler_svc.text.formats.reader import AnswerReader
from scheduler_svc.text.formats.table import AUTO, NONE, Formats
from tests.support.models.answer_grammars import (
    TEMPLATES,
    by_chance,
    matcher_of,
    text_by,
    text_of,
    tokenizers,
)
from tests.support.models.sample_tokenizers import EOS_ID

# Where nothing says how long a text is, chance never ends it: all is bounded here.
SCHEMA = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 0, "maximum": 20},
        "unit": {"type": "string", "enum": ["c", "<f>", "Größe"]},
        "deep": {"$ref": "#/$defs/deep"},
    },
    "required": ["count", "deep"],
    "additionalProperties": False,
    "$defs": {"deep": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2, "minItems": 1}},
}
FUNCTIONS = [Function("weather", SCHEMA), Function("time-of_day")]
COMBINATIONS = [(template, is_special) for template in TEMPLATES for is_special in (False, True)]


def grammar_of(template: str, *, is_special: bool, reasoning: str = AUTO, **more: object) -> AnswerGrammar:
    special, formats = tokenizers(is_special=is_special)[0].special_tokens, Formats.of(template, AUTO, reasoning)
    return AnswerGrammar(formats, FUNCTIONS, special_tokens=special, **more)  # type: ignore[arg-type]


def without_thoughts(template: str, *, is_special: bool, is_single: bool = False) -> AnswerGrammar:
    """Chance would never end a thought."""
    return grammar_of(template, is_special=is_special, reasoning=NONE, must_call=True, is_single=is_single)


def read(grammar: AnswerGrammar, token_ids: Sequence[int], *, is_special: bool) -> Found:
    reader = AnswerReader(grammar.formats, FUNCTIONS, is_thinking=grammar.is_thinking)
    return reader.finish(text_of(grammar, token_ids, is_special=is_special))


@pytest.mark.parametrize(("template", "is_special"), COMBINATIONS)
def test_whatever_chance_writes_by_the_grammar_is_a_call(template: str, is_special: bool) -> None:
    grammar = without_thoughts(template, is_special=is_special)
    for seed in range(6):
        found = read(grammar, by_chance(matcher_of(grammar, is_special=is_special), seed), is_special=is_special)
        assert found.text == ""
        for call in found.calls:
            arguments = json.loads(call.arguments)
            if call.name == "weather":
                assert 0 <= arguments["count"] <= 20
                assert all(isinstance(one, bool) for one in arguments["deep"])
                assert arguments.get("unit", "c") in ("c", "<f>", "Größe")
            else:
                assert (call.name, arguments) == ("time-of_day", {})
        assert found.calls


@pytest.mark.parametrize(("template", "is_special"), COMBINATIONS)
def test_where_there_may_be_one_call_the_answer_ends_behind_it(template: str, is_special: bool) -> None:
    grammar = without_thoughts(template, is_special=is_special, is_single=True)
    matcher = matcher_of(grammar, is_special=is_special)
    by_chance(matcher, 0)
    assert [token_id for token_id, bias in enumerate(matcher.compute_logit_bias()) if bias] == [EOS_ID]


@pytest.mark.parametrize("is_special", [False, True])
@pytest.mark.parametrize("is_thinking", [False, True])
@pytest.mark.parametrize(
    ("body", "text"),
    [("", '<tool_call>\n{"name": "time-of_day", "arguments": {}}\n</tool_call>'), ("start: /[ab]+/", "abba")],
)
def test_a_thought_may_come_before_what_an_answer_is_kept_to(
    is_special: bool, is_thinking: bool, body: str, text: str
) -> None:
    template = "<tool_call><think>"
    grammar = grammar_of(template, is_special=is_special, must_call=not body, is_thinking=is_thinking)
    tokenizer, _ = tokenizers(is_special=is_special)
    thought = f"{'' if is_thinking else '<think>'}\nhm <tool_call>{{ </thin\n</think>\n\n"
    token_ids = list(tokenizer.encode(thought.replace("<tool_call>", "<tool") + text, add_special_tokens=False))
    matcher = matcher_of(grammar, is_special=is_special, body=body)
    assert matcher.try_consume_tokens(token_ids) == len(token_ids)
    assert matcher.is_accepting()
    found = read(grammar, token_ids, is_special=is_special)
    assert found.reasoning.startswith("hm <tool")
    assert found.text == ("abba" if body else "")
    assert len(found.calls) == (0 if body else 1)


@pytest.mark.parametrize("is_special", [False, True])
def test_an_answer_with_a_structure_may_call_in_its_place(is_special: bool) -> None:
    grammar = grammar_of("<tool_call>", is_special=is_special)
    for text in ("ab", '<tool_call>\n{"name": "time-of_day", "arguments": {}}\n</tool_call>'):
        token_ids = list(tokenizers(is_special=is_special)[0].encode(text, add_special_tokens=False))
        matcher = matcher_of(grammar, is_special=is_special, body="start: /[ab]+/")
        assert matcher.try_consume_tokens(token_ids) == len(token_ids)
        assert matcher.is_accepting()


@pytest.mark.parametrize("template", ["<arg_key>", "<function="])
def test_a_text_between_tags_may_have_anything_in_it(template: str) -> None:
    function = Function("f", {"properties": {"code": {"type": "string"}}, "required": ["code"]})
    grammar = AnswerGrammar(Formats.of(template), [function], must_call=True)
    code = 'if a < "b":\n  return </parameter'
    if template == "<arg_key>":
        text = f"<tool_call>f\n<arg_key>code</arg_key>\n<arg_value>{code}</arg_value>\n</tool_call>"
    else:
        text = f"<tool_call>\n<function=f>\n<parameter=code>\n{code}\n</parameter>\n</function>\n</tool_call>"
    token_ids = list(tokenizers(is_special=False)[0].encode(text, add_special_tokens=False))
    matcher = matcher_of(grammar, is_special=False)
    assert matcher.try_consume_tokens(token_ids) == len(token_ids)
    assert matcher.is_accepting()
    [call] = AnswerReader(grammar.formats, [function]).finish(text).calls
    assert json.loads(call.arguments) == {"code": code}


def test_without_anything_to_keep_to_there_is_no_grammar() -> None:
    assert AnswerGrammar().around() is None
    assert AnswerGrammar().around(LarkText("start: /a/")) == Grammar(LarkText("start: /a/"))
    assert AnswerGrammar(Formats.of("<tool_call><think>"), FUNCTIONS).around() is None
    assert AnswerGrammar(Formats(BareJson()), FUNCTIONS, must_call=True).around() is not None


def test_a_lark_text_is_one_whatever_it_begins_with() -> None:
    for text in ("{}", '{"grammars": []}', "{x", '{"grammars": [{"json_schema": {"type": "object"}}]}'):
        for grammar in (AnswerGrammar(), AnswerGrammar(Formats.of("<tool_call><think>"), FUNCTIONS)):
            matcher = LLMatcher(tokenizers(is_special=False)[1], text_by(grammar, text), log_level=0, limits=LIMITS)
            assert "expecting rule" in matcher.get_error()


def test_what_schemas_only_note_takes_no_room_in_a_grammar() -> None:
    note = {"description": "x" * 1000, "title": "x" * 1000}
    schema = {
        **note,
        "properties": {"title": {**note, "enum": [{"title": 1}]}, "b": {"anyOf": [{**note, "type": "null"}]}},
    }
    grammar = AnswerGrammar(Formats.of("<tool_call>"), [Function("f", schema)], must_call=True).around()
    assert grammar is not None
    assert isinstance(grammar.first, LarkText)
    rules = grammar.first.text
    assert "xxx" not in rules
    assert '"title": {"enum": [{"title": 1}]}' in rules
    assert '{"anyOf": [{"type": "null"}]}' in rules


@pytest.mark.parametrize("is_special", [False, True])
@pytest.mark.parametrize("thought", ["", "<|channel|>analysis<|message|>hm, a<|end|><|start|>assistant"])
@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("start: /[ab]+/", "<|channel|>final<|message|>abba"),
        ("start: /[ab]+/", "<|channel|>commentary to=functions.time-of_day <|constrain|>json<|message|>{}"),
        ("", "<|channel|>commentary to=functions.time-of_day <|constrain|>json<|message|>{}"),
    ],
)
def test_channels_are_kept_apart_by_the_grammar(is_special: bool, thought: str, body: str, answer: str) -> None:
    grammar = grammar_of("<|channel|>", is_special=is_special, must_call=not body)
    token_ids = list(tokenizers(is_special=is_special)[0].encode(thought + answer, add_special_tokens=False))
    matcher = matcher_of(grammar, is_special=is_special, body=body)
    assert matcher.try_consume_tokens(token_ids) == len(token_ids)
    assert matcher.is_accepting()
    found = read(grammar, token_ids, is_special=is_special)
    assert found.reasoning == ("hm, a" if thought else "")
    assert (found.text, len(found.calls)) == (("abba", 0) if "final" in answer else ("", 1))
