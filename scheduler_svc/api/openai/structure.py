"""Translates the ways in which OpenAI's API and vLLM ask for structured output to one.

Sources: OpenAI's API reference, response_format; vLLM's documentation, structured_outputs, and guided_* of before.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from scheduler_svc.api.draft import StructureDraft, StructureKind
from scheduler_svc.api.openai.wire.schemas import GenerationFields, ResponseFormat
from scheduler_svc.errors import InvalidRequest, Words


@dataclass(frozen=True, slots=True)
class NamedStructure:
    """A structure, and the field that it was asked for by."""

    draft: StructureDraft
    field: str


def structure_of(body: GenerationFields) -> NamedStructure | None:
    """Returns the structure that a request asks for, if any; raises InvalidRequest for more than one."""
    found = [*_of_response_format(body.response_format), *_of_structured_outputs(body), *_of_guided_fields(body)]
    if len(found) > 1:
        raise InvalidRequest(found[1].field, Words("one more structure"), f"none beside {found[0].field}")
    return found[0] if found else None


def _of_response_format(given: ResponseFormat | None) -> Iterator[NamedStructure]:
    if given is None or given.type == "text":
        return
    if given.type == "json_object":
        yield _named("response_format", StructureKind.JSON_OBJECT, "")
    elif given.json_schema is None:
        raise InvalidRequest("response_format.json_schema", None, "an object with name and schema")
    else:
        schema = json.dumps(given.json_schema.json_schema)
        yield _named("response_format.json_schema.schema", StructureKind.JSON_SCHEMA, schema)


def _of_structured_outputs(body: GenerationFields) -> Iterator[NamedStructure]:
    given = body.structured_outputs
    if given is None:
        return
    field = "structured_outputs"
    yield from _described(field, given.json_, given.regex, given.choice, given.grammar)
    if given.json_object:
        yield _named(f"{field}.json_object", StructureKind.JSON_OBJECT, "")


def _of_guided_fields(body: GenerationFields) -> Iterator[NamedStructure]:
    yield from _described("guided", body.guided_json, body.guided_regex, body.guided_choice, body.guided_grammar, "_")


def _described(
    field: str,
    schema: dict[str, object] | str | None,
    regex: str | None,
    choice: list[str] | None,
    grammar: str | None,
    joint: str = ".",
) -> Iterator[NamedStructure]:
    if schema is not None:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        yield _named(f"{field}{joint}json", StructureKind.JSON_SCHEMA, text)
    if regex is not None:
        yield _named(f"{field}{joint}regex", StructureKind.REGEX, regex)
    if choice is not None:
        yield _named(f"{field}{joint}choice", StructureKind.CHOICES, *choice)
    if grammar is not None:
        yield _named(f"{field}{joint}grammar", StructureKind.LARK, grammar)


def _named(field: str, kind: StructureKind, *texts: str) -> NamedStructure:
    return NamedStructure(StructureDraft(kind, texts), field)
