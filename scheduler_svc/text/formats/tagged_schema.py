"""Which arguments a schema allows, and which texts: for formats that write arguments one by one, texts without quotes.

There a schema can't be followed as that of one JSON text is. What of it can't be is refused, never left out:
at the root only properties, those that are required, and whether there may be others; of a text enum, const, pattern,
minLength and maxLength. `format` is a note, as JSON Schema 2020-12 has it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler_svc.text.formats.lark import NotFollowed, alternatives, quoted, regex
from scheduler_svc.text.formats.pieces import Function

_OF_ANY = frozenset({"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if"})
_OF_OBJECTS = frozenset(
    {
        *("const", "enum", "minProperties", "maxProperties", "propertyNames", "patternProperties"),
        *("dependencies", "dependentRequired", "dependentSchemas"),
    }
)
_NO_TEXT = "no text is of it"
_SHARED = ("$defs", "definitions")
_CLASS_WITHOUT = re.compile(r"\[\^(?:\\.|[^\]\\])*\]", re.DOTALL)


class _Problem(Exception):
    """Why a text can't be kept to its schema."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a function.

    Attributes:
        schema: What it may be, with the schemas that it may refer to.
        is_needed: Whether each call has it.
    """

    key: str
    schema: Mapping[str, Any]
    is_needed: bool

    @property
    def is_text(self) -> bool:
        """Whether it stands there without quotes."""
        return self.schema.get("type") == "string"


def arguments_of(function: Function) -> Iterator[Argument]:
    """Yields a function's arguments in the schema's order; raises NotFollowed for what can't be kept to."""
    schema = function.parameters
    if unknown := sorted((_OF_ANY | _OF_OBJECTS) & schema.keys()):
        problem = f"{unknown[0]!r} of a whole schema, where the model writes each argument by itself"
        raise NotFollowed(function.name, problem)
    needed = schema.get("required", [])
    if not all(isinstance(key, str) for key in needed):
        raise NotFollowed(function.name, "required has names")
    others, shared = schema.get("additionalProperties", True), {key: schema[key] for key in _SHARED if key in schema}
    properties = {**schema.get("properties", {})}
    for key, value in {**properties, **{key: others for key in needed if key not in properties}}.items():
        if value is False and key in needed:
            raise NotFollowed(function.name, f"{key!r} is required, and nothing may be its value")
        if value is not False:
            yield Argument(key, {**_schema(function, key, value), **shared}, key in needed)


def _schema(function: Function, key: str, value: Any) -> Mapping[str, Any]:
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise NotFollowed(function.name, f"what {key!r} may be is an object, true or false")
    return value


def text_of(function: str, argument: Argument, end: str, *, is_token: bool) -> str:
    """Returns a terminal for what a text may be; empty where it may be anything.

    Args:
        function: The name of its function.
        argument: A text.
        end: The tag that ends it.
        is_token: Whether that is a token, which no text has in it. Where it is not, texts with bounds have no `<`:
            to be without the whole tag, and within bounds, takes too long to follow.

    Raises:
        NotFollowed: What it has to be can't be told of texts without quotes, or nothing is that.
    """
    try:
        return " & ".join(_bounds(argument.schema, end, is_token=is_token))
    except _Problem as problem:
        raise NotFollowed(function, f"{argument.key!r}: {problem}") from None


def _bounds(schema: Mapping[str, Any], end: str, *, is_token: bool) -> Iterator[str]:
    """Yields regular expressions, or choices of texts, of which a text is all."""
    if unknown := sorted(_OF_ANY & schema.keys()):
        raise _Problem(f"{unknown[0]!r} of a text that stands without quotes")
    least, most = _length(schema, "minLength") or 0, _length(schema, "maxLength")
    if most is not None and least > most:
        raise _Problem(_NO_TEXT)
    char = "(?s:.)" if is_token else "[^<]"
    if "enum" in schema or "const" in schema:
        yield _one_of(schema, least, most, end)
    elif least or most is not None:
        yield regex(f"{char}{{{least},{'' if most is None else most}}}")
    elif "pattern" in schema:
        yield regex(f"{char}*")
    if "pattern" in schema:
        yield _found(schema["pattern"], is_token=is_token)


def _length(schema: Mapping[str, Any], word: str) -> int | None:
    value = schema.get(word)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        raise _Problem(f"{word} is a whole number")
    return int(value)


def _one_of(schema: Mapping[str, Any], least: int, most: int | None, end: str) -> str:
    values = schema.get("enum", [schema.get("const")])
    if not isinstance(values, list):
        raise _Problem("enum is a list")
    texts = [one for one in values if isinstance(one, str) and schema.get("const", one) == one]
    texts = [one for one in texts if len(one) >= least and (most is None or len(one) <= most)]
    if not texts:
        raise _Problem(_NO_TEXT)
    if any(end in one for one in texts):
        raise _Problem(f"a text that has {end} in it can't be told from its end")
    return f"({alternatives(map(quoted, texts))})"


def _found(pattern: Any, *, is_token: bool) -> str:
    """Returns a regular expression for texts in which a pattern is found, as JSON Schema has it."""
    if not isinstance(pattern, str):
        raise _Problem("pattern is a text")
    if not is_token and "<" in _CLASS_WITHOUT.sub("", pattern):
        raise _Problem("a pattern with < in it, with which the tag at a text's end begins, takes too long to follow")
    return f"({alternatives(regex(_anchored(one)) for one in _branches(pattern))})"


def _branches(pattern: str) -> Iterator[str]:
    """Yields what a pattern's outermost bars divide: anchors belong to each by itself."""
    start, depth, is_class = 0, 0, False
    for found in re.finditer(r"\\?.", pattern, re.DOTALL):
        match found[0]:
            case "[":
                is_class = True
            case "]":
                is_class = False
            case "(" if not is_class:
                depth += 1
            case ")" if not is_class:
                depth -= 1
            case "|" if not is_class and not depth:
                yield pattern[start : found.start()]
                start = found.end()
    yield pattern[start:]


def _anchored(pattern: str) -> str:
    """Returns one for whole texts; anchors elsewhere than at the ends are not known to the library, which says so."""
    parts = [found[0] for found in re.finditer(r"\\?.", pattern, re.DOTALL)]
    before, after = "(?s:.*)", "(?s:.*)"
    if parts and parts[0] == "^":
        before, parts = "", parts[1:]
    if parts and parts[-1] == "$":
        after, parts = "", parts[:-1]
    return f"{before}(?:{''.join(parts)}){after}"
