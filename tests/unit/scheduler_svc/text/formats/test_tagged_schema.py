"""Arguments between tags follow their schemas, or the schema is refused."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher
from qllm.grammar import LIMITS

from scheduler_svc.text.formats.grammar import AnswerGrammar
from scheduler_svc.text.formats.lark import NotFollowed
from scheduler_svc.text.formats.pieces import Function
from scheduler_svc.text.formats.reader import AnswerReader
from scheduler_svc.text.formats.table import Formats
from tests.support.models.answer_grammars import by_chance, matcher_of, text_of, tokenizers

GLM, QWEN = "<arg_key>", "<function="
FORMS = [(template, is_special) for template in (GLM, QWEN) for is_special in (False, True)]


def grammar_of(template: str, parameters: dict[str, Any], *, is_special: bool) -> AnswerGrammar:
    special = tokenizers(is_special=is_special)[0].special_tokens
    return AnswerGrammar(Formats.of(template), [Function("f", parameters)], must_call=True, special_tokens=special)


def one(schema: object) -> dict[str, Any]:
    return {"properties": {"a": schema}, "required": ["a"]}


def written(template: str, value: str) -> str:
    if template == GLM:
        return f"<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>"
    return f"<tool_call>\n<function=f>\n<parameter=a>\n{value}\n</parameter>\n</function>\n</tool_call>"


def is_taken(template: str, parameters: dict[str, Any], text: str, *, is_special: bool) -> bool:
    matcher = matcher_of(grammar_of(template, parameters, is_special=is_special), is_special=is_special)
    token_ids = list(tokenizers(is_special=is_special)[0].encode(text, add_special_tokens=False))
    return matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting()


@pytest.mark.parametrize(("template", "is_special"), FORMS)
@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"const": "x"}, ["x"], ["", "y", "xx"]),
        ({"const": "x", "enum": ["x", "y"]}, ["x"], ["y"]),
        ({"enum": ["a\n", "<b", 5], "minLength": 2}, ["a\n", "<b"], ["5", "a"]),
        ({"enum": ["ab", "cd"], "pattern": "^a"}, ["ab"], ["cd"]),
        ({"pattern": "^[a-z]+$"}, ["a", "abc"], ["", "a1", "a\nb"]),
        ({"pattern": "b/c"}, ["b/c", "ab/cd", "\nb/c\n"], ["", "bc"]),
        ({"pattern": "^a|b$|c"}, ["ax", "xb", "xcx"], ["xa", "bx", ""]),
        ({"pattern": "^[^<|]+$", "maxLength": 3}, ["abc"], ["abcd", "a|"]),
        ({"minLength": 2}, ["ab", "a\n", "日本語"], ["", "a"]),
        ({"minLength": 1, "maxLength": 2}, ["a", "\n\n", "日本"], ["", "abc", "日本語"]),
        ({"maxLength": 0}, [""], ["a"]),
        ({"format": "date"}, ["2026-11-30", "any"], []),
        ({}, ["", "a < b", "\n"], []),
    ],
)
def test_a_text_is_kept_to_its_schema(
    template: str, is_special: bool, schema: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    parameters = one({"type": "string", **schema})
    for value in good:
        text = written(template, value)
        assert is_taken(template, parameters, text, is_special=is_special), value
        [call] = AnswerReader(Formats.of(template), [Function("f", parameters)]).finish(text).calls
        assert json.loads(call.arguments) == {"a": value}
    for value in bad:
        assert not is_taken(template, parameters, written(template, value), is_special=is_special), value


@pytest.mark.parametrize(("template", "is_special"), FORMS)
def test_whatever_chance_writes_is_within_the_bounds(template: str, is_special: bool) -> None:
    parameters = {
        "properties": {
            "a": {"type": "string", "maxLength": 5, "pattern": "[b-d]"},
            "b": {"type": "string", "minLength": 3, "maxLength": 4},
        },
        "required": ["a", "b"],
    }
    grammar = grammar_of(template, parameters, is_special=is_special)
    for seed in range(8):
        token_ids = by_chance(matcher_of(grammar, is_special=is_special), seed)
        text = text_of(grammar, token_ids, is_special=is_special)
        calls = AnswerReader(grammar.formats, grammar.functions).finish(text).calls
        assert calls
        for call in calls:
            arguments = json.loads(call.arguments)
            assert len(arguments["a"]) <= 5
            assert set(arguments["a"]) & set("bcd")
            assert 3 <= len(arguments["b"]) <= 4


@pytest.mark.parametrize(("template", "is_special"), FORMS)
def test_what_is_required_is_written_also_where_nothing_says_what_it_is(template: str, is_special: bool) -> None:
    for parameters, good, bad in (
        ({"required": ["a"]}, ["1", '"x"', "[]"], ["", "x"]),
        ({"required": ["a"], "additionalProperties": {"type": "integer"}}, ["1"], ['"x"']),
        ({"required": ["a"], "properties": {"a": True, "b": False}}, ["null"], ["x"]),
        (one({"$ref": "#/$defs/n"}) | {"$defs": {"n": {"type": "integer"}}}, ["5"], ['"x"', "x"]),
    ):
        assert all(is_taken(template, parameters, written(template, value), is_special=is_special) for value in good)
        assert not any(is_taken(template, parameters, written(template, value), is_special=is_special) for value in bad)


@pytest.mark.parametrize("template", [GLM, QWEN])
@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}}, "'$ref' of a whole schema"),
        ({"allOf": [{"required": ["a"]}]}, "'allOf'"),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, "'anyOf'"),
        ({"minProperties": 1}, "'minProperties'"),
        ({"patternProperties": {"a": {}}}, "'patternProperties'"),
        ({"required": ["a"], "additionalProperties": False}, "'a' is required"),
        (one(False), "'a' is required"),
        ({"required": [["a"]]}, "names"),
        (one(5), "an object, true or false"),
        (one({"type": "string", "enum": []}), "no text is of it"),
        (one({"type": "string", "enum": [1, 2]}), "no text is of it"),
        (one({"type": "string", "enum": 5}), "enum is a list"),
        (one({"type": "string", "const": "a", "enum": ["b"]}), "no text is of it"),
        (one({"type": "string", "enum": ["a"], "minLength": 2}), "no text is of it"),
        (one({"type": "string", "minLength": 2, "maxLength": 1}), "no text is of it"),
        (one({"type": "string", "minLength": -1}), "whole number"),
        (one({"type": "string", "pattern": 5}), "pattern is a text"),
        (one({"type": "string", "pattern": "<b>"}), "pattern with <"),
        (one({"type": "string", "enum": ["</arg_value></parameter>"]}), "told from its end"),
        (one({"type": "string", "anyOf": [{"maxLength": 1}, {"pattern": "a"}]}), "'anyOf' of a text"),
        ({"properties": {"a\nb": {}}}, "between tags"),
        ({"properties": {"</arg_key><a>": {}}}, "between tags"),
    ],
)
def test_what_can_not_be_followed_is_refused_and_said(template: str, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(NotFollowed, match="f: ") as refusal:
        grammar_of(template, parameters, is_special=False).around()
    assert says in refusal.value.reason


@pytest.mark.parametrize(
    "schema", [{"enum": []}, {"type": "string", "pattern": "a^b"}, {"type": "string", "pattern": "("}]
)
@pytest.mark.parametrize("template", [GLM, QWEN])
def test_what_the_library_does_not_know_is_refused_by_it(template: str, schema: dict[str, Any]) -> None:
    grammar = grammar_of(template, one(schema), is_special=False).around()
    assert grammar is not None
    assert LLMatcher(tokenizers(is_special=False)[1], grammar.text(), log_level=0, limits=LIMITS).is_error()
