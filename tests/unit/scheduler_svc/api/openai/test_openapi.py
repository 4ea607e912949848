"""/openapi.json describes every field of every request, in the protos' words where gRPC has the field, too."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from scheduler_svc.api.openai.wire.field_texts import text_of, texts_in
from scripts import field_texts, protos
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import http_app

Schema = dict[str, Any]


@pytest.fixture
async def openapi() -> Schema:
    async with http_app(FakeGenerator()) as service:
        response = await service.http.get("/openapi.json")
    described: Schema = response.json()
    return described


def request_fields(openapi: Schema) -> Iterator[tuple[str, Schema]]:
    """Yields each field of each request's body, and of the objects in it."""
    schemas = openapi["components"]["schemas"]
    for path, methods in openapi["paths"].items():
        for method in methods.values():
            content = method.get("requestBody", {}).get("content", {})
            for body in content.values():
                yield from _fields(body["schema"], schemas, path, set())


def _fields(schema: Any, schemas: Schema, where: str, seen: set[str]) -> Iterator[tuple[str, Schema]]:
    if isinstance(schema, list):
        for one in schema:
            yield from _fields(one, schemas, where, seen)
    if not isinstance(schema, dict):
        return
    name = schema.get("$ref", "").removeprefix("#/components/schemas/")
    if name and name not in seen:
        yield from _fields(schemas[name], schemas, f"{where} {name}", seen | {name})
    for field, described in schema.get("properties", {}).items():
        yield f"{where}.{field}", described
    for inside in schema.values():
        if isinstance(inside, dict | list):
            yield from _fields(inside, schemas, where, seen)
            yield from _fields([*inside.values()] if isinstance(inside, dict) else [], schemas, where, seen)


def test_every_field_of_every_request_has_a_description(openapi: Schema) -> None:
    fields = dict(request_fields(openapi))
    assert len(fields) > 80
    assert [field for field, described in fields.items() if not described.get("description")] == []


def test_a_field_that_grpc_has_is_described_in_its_words(openapi: Schema) -> None:
    fields = openapi["components"]["schemas"]["CompletionRequest"]["properties"]
    assert fields["temperature"]["description"] == (
        "Divides the logits; 0 takes the most probable token (greedy). In [0, 100]. Default 1."
    )
    assert fields["stop"]["description"].startswith("Strings that end the text;")
    assert fields["guided_regex"]["description"].startswith("A text that this regular expression matches")
    assert fields["top_k"]["description"].endswith("Default 0. -1 keeps all, too, as in vLLM.")


def test_no_text_speaks_of_a_field_that_only_grpc_has(openapi: Schema) -> None:
    for field, described in request_fields(openapi):
        assert "include_stop_string" not in described["description"], field


def test_errors_are_described_as_they_leave(openapi: Schema) -> None:
    posts = [methods["post"]["responses"] for methods in openapi["paths"].values() if "post" in methods]
    assert not any("422" in responses for responses in posts)
    assert sum("400" in responses for responses in posts) >= 6
    assert openapi["components"]["schemas"]["Error"]["properties"]["error"]["required"] == [
        *("message", "type", "param", "code")
    ]


def test_objects_have_short_names_and_every_reference_leads_to_one(openapi: Schema) -> None:
    names = set(openapi["components"]["schemas"])
    assert [name for name in names if "__" in name or "Validation" in name] == []
    assert {"TextPart", "ItemPart"} <= names
    text = json.dumps(openapi)
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', text)) <= names


def test_every_path_says_what_it_does(openapi: Schema) -> None:
    methods = {path: method for path, ways in openapi["paths"].items() for method in ways.values()}
    assert [path for path, method in methods.items() if not method.get("description")] == []


def test_the_texts_are_those_of_the_protos() -> None:
    assert [*protos.stale_texts()] == []
    assert text_of("min_p") in field_texts.PATH.read_text("utf-8")
    assert text_of("unheard_of") is None


def test_a_docstring_tells_of_an_object_and_of_its_fields() -> None:
    docstring = (
        "A thing.\n\nOf two lines.\n\nAttributes:\n    one: The first: and\n        more: so.\n    two_: The second."
    )
    assert texts_in(docstring) == (
        "A thing.\n\nOf two lines.",
        {"one": "The first: and more: so.", "two_": "The second."},
    )
    assert texts_in("A thing.") == ("A thing.", {})


def test_the_texts_are_not_read_at_the_start() -> None:
    command = "import scheduler_svc.api.openai.app; from scheduler_svc.api.openai.wire import field_texts as f"
    count = f"{command}; print(f._texts.cache_info().currsize)"
    assert subprocess.run([sys.executable, "-c", count], capture_output=True, check=True, text=True).stdout == "0\n"
