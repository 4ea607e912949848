"""Reads functions, calls and turns that are mappings, in this package's form or in OpenAI's, as keyword arguments.

What is in neither form is refused with words that show the right one.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

_FUNCTION = '{"name": ..., "description": ..., "parameters": {...}, "strict": ...}'
_CALL = '{"call_id": ..., "name": ..., "arguments": "{...}"}'
_FORMS = {
    "tool": f'{_FUNCTION} or {{"type": "function", "function": {_FUNCTION}}}',
    "call": f'{_CALL} or {{"id": ..., "type": "function", "function": {{"name": ..., "arguments": "{{...}}"}}}}',
    "turn": '{"role": ..., "content": ..., "name": ..., "tool_calls": [...], "tool_call_id": ..., "reasoning": ...}',
    "text": 'a text, null, or parts such as {"type": "text", "text": ...}',
    "choice": '"auto", "none", "required" or {"type": "function", "function": {"name": ...}}',
}
_PARTS_SEPARATOR = "\n"


def tool_fields(given: object, place: str) -> dict[str, Any]:
    """Returns the fields of a Tool."""
    fields = _unpacked(given, "tool", place)
    return _known(fields, {"name", "description", "parameters", "strict"}, {"name"}, "tool", place)


def call_fields(given: object, place: str) -> dict[str, Any]:
    """Returns the fields of a ToolCall."""
    fields = _unpacked(given, "call", place)
    if "id" in fields:
        fields = {"call_id": fields.pop("id"), **fields}
    fields.pop("index", None)  # of a stream's calls
    needed = {"call_id", "name", "arguments"}
    return _known(fields, needed, needed, "call", place)


def turn_fields(given: object, place: str) -> dict[str, Any]:
    """Returns the fields of a ChatMessage."""
    fields = _mapping(given, "turn", place)
    if "reasoning_content" in fields:
        fields = {"reasoning": fields.pop("reasoning_content"), **fields}
    if "content" in fields:
        fields["content"] = _text(fields["content"], f"{place}.content")
    known = {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning"}
    return _known(fields, known, {"role"}, "turn", place)


def named_function(given: Mapping[str, Any]) -> str:
    """Returns the name in a choice of one function."""
    fields = _unpacked(given, "choice", "tool_choice")
    name: str = _known(fields, {"name"}, {"name"}, "choice", "tool_choice")["name"]
    return name


def _text(given: object, place: str) -> str:
    if given is None or isinstance(given, str):
        return given or ""
    parts = given if isinstance(given, Sequence) else [given]
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in parts]
    wrong = next((part for part, text in zip(parts, texts, strict=True) if not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"{place} is or has {wrong!r}; allowed is {_FORMS['text']}")
    return _PARTS_SEPARATOR.join(map(str, texts))


def _unpacked(given: object, kind: str, place: str) -> dict[str, Any]:
    """Returns the fields of what may be wrapped as OpenAI's functions are."""
    fields = _mapping(given, kind, place)
    if fields.pop("type", "function") != "function":
        raise ValueError(f"{place} is of type {_mapping(given, kind, place)['type']!r}; allowed is {_FORMS[kind]}")
    if "function" not in fields:
        return fields
    return {**_mapping(fields.pop("function"), kind, f"{place}.function"), **fields}


def _mapping(given: object, kind: str, place: str) -> dict[str, Any]:
    """Returns the fields that are given; null is the same as nothing."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{place} is {given!r}; allowed is {_FORMS[kind]}")
    return {str(name): value for name, value in given.items() if value is not None}


def _known(fields: dict[str, Any], known: Set[str], needed: Set[str], kind: str, place: str) -> dict[str, Any]:
    for name in fields:
        if name not in known:
            raise ValueError(f"{place} has the unknown field {name!r}; allowed is {_FORMS[kind]}")
    for name in sorted(needed - fields.keys()):
        raise ValueError(f"{place} has no {name!r}; allowed is {_FORMS[kind]}")
    return fields
