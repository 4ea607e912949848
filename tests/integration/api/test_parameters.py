"""Every field of OpenAI's and vLLM's requests is answered by a running service as the page of parameters says."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import openai.types
import openai.types.chat
import pytest

from scripts.asked_parameters import MODEL, Asked
from scripts.parameters import CHAT, COMPLETIONS, PAGE, Api
from tests.integration.conftest import LiveService

_ROW = re.compile(r"\| `(?P<name>\w+)` \| (?P<of>\w+) \| (?P<here>\w+) \| (?P<says>.*) \|")
_SHORT = {"max_tokens": 2, "max_completion_tokens": 2, "temperature": 0}
# What a field asks for may be something that the demo model does not have: its own words for that.
_NOT_OF_THIS_MODEL = ("template", "tool")


@dataclass(frozen=True)
class Row:
    """A line of the page."""

    api: Api
    name: str
    here: str

    @property
    def asked(self) -> Asked:
        return self.api.asked[self.name]


def rows() -> Iterator[Row]:
    """Yields what the page says of the fields that others have."""
    api = None
    for line in PAGE.read_text().splitlines():
        api = next((one for one in (CHAT, COMPLETIONS) if line == f"## {one.title}: `{one.path}`"), api)
        match = _ROW.fullmatch(line)
        if match and api is not None and match["of"] != "QLLM":
            yield Row(api, match["name"], match["here"])


@pytest.fixture(scope="module")
def http(live_service: LiveService, http_port: int) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://127.0.0.1:{http_port}", timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def model(http: httpx2.Client) -> str:
    name: str = http.get("/v1/models").json()["data"][0]["id"]
    return name


def send(http: httpx2.Client, row: Row, value: object, also: dict[str, Any]) -> tuple[int, str]:
    """Returns the status and the field that is refused, if one is, with what is said of it."""
    prompt = {"messages": [{"role": "user", "content": "hi"}]} if row.api is CHAT else {"prompt": "def f(x):"}
    response = http.post(row.api.path, json={**_SHORT, **prompt, **also, row.name: value})
    if response.status_code == 200:
        return 200, ""
    return response.status_code, response.json()["error"]["message"]


def is_about(message: str, *names: str) -> bool:
    return any(re.match(rf"{name}\b", message) for name in names)


@pytest.mark.parametrize("row", [*rows()], ids=lambda row: f"{row.api.title}-{row.name}")
def test_each_field_is_answered_as_the_page_says(row: Row, http: httpx2.Client, model: str) -> None:
    other = model if row.asked.other == MODEL else row.asked.other
    neutral = send(http, row, row.asked.neutral, {})
    something = send(http, row, other, dict(row.asked.also))
    assert neutral == (200, "")
    if row.here == "refused":
        assert something[0] == 400
        assert is_about(something[1], row.name, *row.asked.also), something
        assert "null" in something[1] or row.asked.also
    elif something[0] != 200:
        assert row.here == "supported"
        assert any(word in something[1] for word in _NOT_OF_THIS_MODEL), something


def test_the_page_has_every_field_of_both() -> None:
    found = [(row.api.path, row.name) for row in rows()]
    assert sorted(found) == sorted((api.path, name) for api in (CHAT, COMPLETIONS) for name in api.asked)
    assert len(found) > 110


def test_the_lists_have_every_field_of_openais_own_types() -> None:
    chat = openai.types.chat.completion_create_params.CompletionCreateParamsBase.__annotations__
    completions = openai.types.completion_create_params.CompletionCreateParamsBase.__annotations__
    assert CHAT.openai.keys() == {*chat, "stream"}
    assert COMPLETIONS.openai.keys() == {*completions, "stream"}


def test_a_field_that_is_nowhere_is_refused_and_the_closest_named(http: httpx2.Client) -> None:
    response = http.post("/completions", json={"prompt": "a", "temprature": 0})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "temprature: there is no such field here; did you mean temperature?"
