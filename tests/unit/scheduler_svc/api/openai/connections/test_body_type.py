"""A program may leave out that a body is JSON; a web page may not, since a browser lets any page send such bodies."""

import pytest

from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import COMPLETIONS, error_of, http_app

BODY = b'{"prompt": "hello", "max_tokens": 1}'
FORM = "application/x-www-form-urlencoded"  # what curl -d says
OF_BROWSERS = [
    ("origin", "http://evil.example"),
    ("origin", "null"),
    ("origin", "http://service"),
    ("referer", "http://evil.example/page"),
    ("sec-fetch-site", "cross-site"),
    ("sec-fetch-mode", "no-cors"),
    ("sec-fetch-dest", "empty"),
]


@pytest.mark.parametrize("content_type", [None, "", FORM, f"{FORM}; charset=utf-8", FORM.upper()])
@pytest.mark.parametrize("before", [b"", b"\n  "])
async def test_an_object_of_no_type_or_curls_is_read_as_json(content_type: str | None, before: bytes) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    async with http_app(FakeGenerator()) as service:
        response = await service.http.post(COMPLETIONS, content=before + BODY, headers=headers)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("content_type", [None, "", FORM, "text/plain"])
@pytest.mark.parametrize(("name", "value"), OF_BROWSERS)
async def test_a_page_that_does_not_call_its_body_json_is_refused(
    content_type: str | None, name: str, value: str
) -> None:
    headers = {name: value} if content_type is None else {name: value, "content-type": content_type}
    async with http_app(FakeGenerator()) as service:
        response = await service.http.post(COMPLETIONS, content=BODY, headers=headers)
        assert response.status_code == 400
        assert error_of(response)["param"] == "content-type"
        assert service.generator.submitted == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("text/plain", BODY), ("application/xml", BODY), (FORM, b"prompt=hello"), (None, b"[1]"), (None, b"hello")],
)
async def test_another_type_and_what_is_no_object_are_refused_with_the_option_that_helps(
    content_type: str | None, body: bytes
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    async with http_app(FakeGenerator()) as service:
        response = await service.http.post(COMPLETIONS, content=body, headers=headers)
        assert response.status_code == 400
        shown = "nothing" if content_type is None else repr(content_type)
        message = error_of(response)["message"]
        assert message.startswith(f"content-type: got {shown}, allowed is application/json; ")
        assert "-H 'content-type: application/json'" in message
