"""Writes pieces of Lark grammars, in llguidance's variant of the notation."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from scheduler_svc.text.formats.pieces import Function

# White space between JSON's tokens, as much as a deep indentation takes: without a bound a model may write it for ever.
JSON_WHITE_SPACE = r"[\x20\x0A\x0D\x09]{0,20}"

# A regular expression's characters, with what escapes them, and those that would end it in a grammar.
_REGEX_PARTS = re.compile(r"\\?.", re.DOTALL)
_REGEX_ESCAPES: Mapping[str, str] = MappingProxyType(
    {"/": r"\/", "\n": r"\n", "\\\n": r"\n", "\r": r"\r", "\\\r": r"\r"}
)

# Words of JSON schemas that say nothing of what is valid, that name schemas, and that have values in them.
_NOTES = frozenset({"$comment", "default", "deprecated", "description", "examples", "title"})
_NAMING = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_VALUES = frozenset({"const", "enum"})


class NotFollowed(Exception):
    """Calls of a function can't be kept to its schema.

    Attributes:
        function: Its name.
        reason: Why, in words that go on from "one that can be followed".
    """

    def __init__(self, function: str, reason: str) -> None:
        super().__init__(f"{function}: {reason}")
        self.function, self.reason = function, reason


def quoted(text: str) -> str:
    """Returns a text as a grammar has it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")


def alternatives(rules: Iterable[str]) -> str:
    """Returns a choice of rules."""
    return " | ".join(rules)


def json_rule(name: str, schema: object) -> str:
    """Returns a rule for JSON of a schema, which is an object or true."""
    bounded = _without_notes(schema) if isinstance(schema, dict) else {}
    return f"{name}: %json {json.dumps({**bounded, 'x-guidance': {'whitespace_pattern': JSON_WHITE_SPACE}})}"


def _without_notes(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema without what changes nothing: descriptions may be most of it."""
    kept: dict[str, Any] = {}
    for word, value in schema.items():
        if word in _NAMING and isinstance(value, dict):
            kept[word] = {name: _part_without_notes(part) for name, part in value.items()}
        elif word not in _NOTES:
            kept[word] = value if word in _VALUES else _part_without_notes(value)
    return kept


def _part_without_notes(part: Any) -> Any:
    if isinstance(part, list):
        return [_part_without_notes(one) for one in part]
    return _without_notes(part) if isinstance(part, dict) else part


def regex(pattern: str) -> str:
    """Returns a regular expression as a grammar has it."""
    parts = (_REGEX_ESCAPES.get(part, part) for part in _REGEX_PARTS.findall(pattern))
    return f"/{''.join(parts)}/"


def text_before(name: str, word: str, marker: str) -> list[str]:
    """Returns rules for any text and the marker that ends it; `word` is the marker as `marker_word` has it."""
    if word.startswith("<"):  # a token, which no text has in it
        text = f"TEXT_{name.upper()}"
        return [f"{name}: {text}? {word}", f"{text}: /(?s:.+)/"]
    return [f"{name}[lazy]: {regex(f'(?s:.*){re.escape(marker)}')}"]


def marker_word(marker: str, special_tokens: Mapping[str, int]) -> str:
    """Returns a marker as a grammar has it: special tokens are no text."""
    token_id = special_tokens.get(marker)
    return quoted(marker) if token_id is None else f"<[{token_id}]>"


def arguments_rules(functions: Sequence[Function]) -> list[str]:
    """Returns a rule for the arguments of each function, `args_0` and so on."""
    return [json_rule(f"args_{index}", _arguments_schema(one)) for index, one in enumerate(functions)]


def _arguments_schema(function: Function) -> dict[str, object]:
    """A function that says nothing of parameters has none."""
    if not function.parameters:
        return {"type": "object", "additionalProperties": False}
    return {**function.parameters, "type": "object"}


def object_call(name: str, key: str, index: int) -> str:
    """Returns a rule's text for a call that is one object of JSON, its arguments under a key."""
    head = f'{{"name": "{name}", "{key}": '
    return f"{quoted(head)} args_{index} {quoted('}')}"
