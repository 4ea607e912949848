"""A hundred structures that ask for too much, for nothing, or for what grows: each a kind, and what is sent."""

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

from scheduler_svc.api.draft import StructureDraft, StructureKind

Schema: TypeAlias = Any
STRING = {"type": "string"}


def nested(depth: int, inner: Schema, around: str) -> Schema:
    """A schema inside of others, each of which is an array's items, an object's property or an alternative."""
    for _ in range(depth):
        if around == "items":
            inner = {"type": "array", "items": inner}
        elif around == "property":
            inner = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
        else:
            inner = {"anyOf": [{"type": "null"}, inner]}
    return inner


def doubled(levels: int, joined: str) -> Schema:
    """Definitions that each have the one before twice: their number of ways doubles with each."""
    defs: dict[str, Schema] = {"d0": STRING}
    for level in range(1, levels):
        below = {"$ref": f"#/$defs/d{level - 1}"}
        if joined == "properties":
            defs[f"d{level}"] = {"type": "object", "properties": {"a": below, "b": below}, "required": ["a", "b"]}
        else:
            defs[f"d{level}"] = {joined: [below, below]}
    return {"$ref": f"#/$defs/d{levels - 1}", "$defs": defs}


def objects(names: int, **more: Schema) -> Schema:
    return {"type": "object", "properties": {f"p{index}": STRING for index in range(names)}, **more}


def self_referring(**defs: Schema) -> Schema:
    return {"$ref": "#/$defs/a", "$defs": defs}


TREE = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}, "required": ["kids"]}
WORDS = [f"word{index * 7919 % 10000}" for index in range(4000)]

SCHEMAS: dict[str, Schema] = {
    "fifty objects deep": nested(50, STRING, "property"),
    "three hundred objects deep": nested(300, STRING, "property"),
    "nine hundred arrays deep": nested(900, STRING, "items"),
    "three hundred alternatives deep": nested(300, STRING, "anyOf"),
    "two thousand constants": {"anyOf": [{"const": word} for word in WORDS[:1500]]},
    "four thousand words": {"enum": WORDS},
    "words that begin alike": {"enum": [f"{'x' * 200}{index}" for index in range(250)]},
    "one word of sixty thousand letters": {"const": "ab" * 30_000},
    "patterns at once": {**STRING, "allOf": [{"pattern": f"[a-z]{{{n}}}[^a]*$"} for n in range(2, 26)]},
    "lengths at once": {**STRING, "allOf": [{"maxLength": 10_000 + n, "minLength": n} for n in range(50)]},
    "a pattern that doubles": {**STRING, "pattern": "^(a+)+$"},
    "a pattern of equal ways": {**STRING, "pattern": "^(a|a|aa)*b$"},
    "a pattern a million long": {**STRING, "pattern": "^((a{1000}){1000})$"},
    "a pattern that looks back": {**STRING, "pattern": ".*a.{24}$"},
    "letters of all scripts": {**STRING, "pattern": r"^\p{L}{1,5000}$"},
    "at least a billion characters": {**STRING, "minLength": 10**9},
    "at most a billion characters": {**STRING, "maxLength": 10**9},
    "sixty thousand characters": {**STRING, "minLength": 60_000, "maxLength": 60_001},
    "ten thousand characters": {**STRING, "minLength": 10_000, "maxLength": 10_001},
    "a million items": {"type": "array", "items": STRING, "minItems": 10**6},
    "a thousand to the third items": {
        "type": "array",
        "maxItems": 1000,
        "items": {"type": "array", "maxItems": 1000, "items": {"type": "array", "minItems": 999, "maxItems": 1000}},
    },
    "itself": {"$ref": "#"},
    "two that are each other": self_referring(a={"$ref": "#/$defs/b"}, b={"$ref": "#/$defs/a"}),
    "either of two that are each other": self_referring(
        a={"anyOf": [{"$ref": "#/$defs/b"}, STRING]}, b={"anyOf": [{"$ref": "#/$defs/a"}, STRING]}
    ),
    "all of itself": self_referring(a={"allOf": [{"$ref": "#/$defs/a"}, STRING]}),
    "a tree": TREE,
    "a tree without leaves": {**TREE, "properties": {"kids": {**TREE["properties"]["kids"], "minItems": 1}}},  # type: ignore[index]
    "twice as large thirty times": doubled(30, "properties"),
    "twice as many ways thirty times": doubled(30, "anyOf"),
    "twice as many demands thirty times": doubled(30, "allOf"),
    "one of two thirty times": doubled(30, "oneOf"),
    "names by two hundred patterns": {
        "type": "object",
        "patternProperties": {f"^.*{index}.*$": STRING for index in range(200)},
    },
    "names by twenty patterns and a hundred names": objects(
        100, patternProperties={f"^[a-z]{{{index},}}p$": {"type": "integer"} for index in range(20)}
    ),
    "a thousand names that may be left out": objects(1000),
    "a thousand names that must be there": objects(1000, required=[f"p{index}" for index in range(1000)]),
    "any object in any object": {"type": "object", "additionalProperties": {"$ref": "#"}},
    "a number without end": {"type": "number", "minimum": -1e300, "maximum": 1e300},
    "an integer of four hundred digits": {"type": "integer", "minimum": -(10**400), "maximum": 10**400},
    "a number by tiny steps": {"type": "number", "multipleOf": 1e-9, "minimum": 0, "maximum": 1},
    "an integer by many steps": {"type": "integer", "allOf": [{"multipleOf": n} for n in (997, 991, 983, 977, 971)]},
    "no number": {"type": "number", "minimum": 5, "maximum": 4},
    "no text": {**STRING, "minLength": 5, "maxLength": 4},
    "a text that is a number": {"allOf": [STRING, {"type": "integer"}]},
    "no value": {"enum": []},
    "false": {"type": "object", "properties": {"a": False}, "required": ["a"]},
    "a pattern with look-around": {**STRING, "pattern": "^(?=.*a)(?!.*b).{8}$"},
    "a pattern that refers back": {**STRING, "pattern": r"^(a+)\1$"},
    "a pattern that is none": {**STRING, "pattern": "(["},
    "a pattern that is a number": {**STRING, "pattern": 5},
    "half a character": {"const": "\ud800"},
    "a zero byte": {"const": "\x00\x01\x7f"},
    "a place elsewhere": {"$ref": "https://example.com/schema.json"},
    "a file": {"$ref": "file:///etc/passwd"},
    "a definition that is not there": {"$ref": "#/$defs/none"},
    "its own white space": {"x-guidance": {"whitespace_pattern": "( |  |   )*"}, **objects(3)},
    "two thousand items, each of its own": {"type": "array", "prefixItems": [{"const": n} for n in range(2000)]},
    "five kinds of each of five hundred": {
        "type": "array",
        "items": {"anyOf": [objects(5, required=[f"p{n % 5}"], title=f"{n}") for n in range(250)]},
    },
}
REGEXES: dict[str, str] = {
    "repeats of repeats": "((a+)+)+b",
    "equal ways": "(a|a|aa|aaa)+b",
    "two that overlap": "(x+x+)+y",
    "sixty thousand": "a{60000}",
    "a million": "(a{1000}){1000}",
    "up to a million": "(a{0,1000}){0,1000}",
    "a hundred to the fourth": "(((a{100}){100}){100}){100}",
    "far back": "(.|\n)*a(.|\n){30}",
    "far back twice": ".*a.{12}.*b.{12}",
    "many stars": "(.*,){40}[0-9]",
    "may be there five hundred times": "(a?){500}a{500}",
    "any text of thirty thousand": r"[\s\S]{30000}",
    "all scripts": r"(\p{L}|\p{N}|\p{P}|\p{S}){1,3000}",
    "whatever the case": "(?i)(" + "|".join(WORDS[:2000]) + ")",
    "parentheses": "(" * 5000 + "a" + ")" * 5000,
    "an open one": "(" * 30_000,
    "words": "|".join(WORDS),
    "words, one after the other": "((" + "|".join(WORDS[:500]) + ") ?){1,500}",
    "no character": r"[^\s\S]",
    "look-around": "(?=a)b",
    "a reference": r"(a)\1",
    "no such class": r"\p{Nonsense}",
}
LARKS: dict[str, str] = {
    "a name that is not there": "start: nothing",
    "a start that is not there": "stop: \"a\"",
    "itself": "start: start",
    "itself or nothing": 'start: start | ""',
    "itself twice": 'start: start start | "a"',
    "itself three times or nothing": 'start: start start start | "a" | ""',
    "itself between others": 'start: "a" start "a" | "b" start "b" | "a" | "b" | ""',
    "each other": "start: a\na: b\nb: c\nc: a",
    "a sum of sums": 'start: e\ne: e "+" e | e "*" e | e "-" e | "(" e ")" | /[0-9]+/ | /[0-9]/',
    "two to the sixtieth": "start: r60\nr0: \"a\"\n" + "\n".join(f"r{n}: r{n - 1} r{n - 1}" for n in range(1, 61)),
    "twice as many ways": "start: r40\nr0: \"a\"\n"
    + "\n".join(f"r{n}: r{n - 1} | r{n - 1} r{n - 1}" for n in range(1, 41)),
    "fifty thousand times": 'start: ("a" "b"){50000}',
    "up to fifty thousand times": 'start: (a | b){0,50000}\na: "x"\nb: "xx"',
    "a terminal of itself": "start: A\nA: A \"x\"",
    "terminals at once": "start: A\nA: " + " & ".join(f"/(.*[a-z]{{{n}}}[^a]*)/" for n in range(2, 26)),
    "all but": "start: A\nA: ~/(.*a.{18})/",
    "a thousand terminals": "start: (" + " | ".join(f"T{n}" for n in range(1000)) + ")+\n"
    + "\n".join(f"T{n}: /{chr(97 + n % 26)}[a-z]{{{n % 40}}}/" for n in range(1000)),
    "five thousand rules": "start: r4999\nr0: \"a\"\n" + "\n".join(f"r{n}: r{n - 1}" for n in range(1, 5000)),
    "ignored text that is all": "start: \"a\" \"b\" \"c\"\n%ignore /[a-c]*/",
    "tokens by number": "start: <[0-4000000000]>+",
    "a token that is not there": "start: <|unknown|>",
}  # fmt: skip
CHOICES: dict[str, list[str]] = {
    "four thousand": WORDS,
    "one of sixty thousand letters": ["xy" * 30_000],
    "that begin alike": [f"{'x' * n}" for n in range(1, 340)],
}


def hostile_structures() -> Iterator[tuple[str, StructureDraft]]:
    """Yields what each is called, and the structure."""
    for name, schema in SCHEMAS.items():
        yield f"schema: {name}", StructureDraft(StructureKind.JSON_SCHEMA, [json.dumps(schema)])
    for name, regex in REGEXES.items():
        yield f"regex: {name}", StructureDraft(StructureKind.REGEX, [regex])
    for name, lark in LARKS.items():
        yield f"lark: {name}", StructureDraft(StructureKind.LARK, [lark])
    for name, texts in CHOICES.items():
        yield f"choices: {name}", StructureDraft(StructureKind.CHOICES, texts)
