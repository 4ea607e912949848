"""What holds for every request: an id on each answer, pages of other origins, and when to come back."""

import httpx2
import pytest
from qllm.settings import SettingRefused

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import BatchFailed, WorkerUnavailable
from scheduler_svc.generation import WorkerState
from scheduler_svc.settings import Config
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import CHAT, COMPLETIONS, USER_SAYS_HI, HttpService, http_app

LATENCY_SENSITIVE, BEST_EFFORT = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
CALLERS_ID = "Req-7f3a.gateway:42/a=b+c@d_e;(1)~{2}#[3],4%"


async def ask(service: HttpService, what: str, headers: dict[str, str]) -> httpx2.Response:
    match what:
        case "answer":
            return await service.http.post(COMPLETIONS, json={"prompt": "hello"}, headers=headers)
        case "stream":
            return await service.http.post(COMPLETIONS, json={"prompt": "hello", "stream": True}, headers=headers)
        case "bad value":
            return await service.http.post(COMPLETIONS, json={"prompt": 5}, headers=headers)
        case "no json":
            return await service.http.post(COMPLETIONS, content=b"{", headers=headers)
        case "too large":
            return await service.http.post(COMPLETIONS, content=b"x" * (5 << 20), headers=headers)
        case _:
            return await service.http.get(what, headers=headers)


ASKED = ["answer", "stream", "bad value", "no json", "too large", "/nowhere", "/health", COMPLETIONS]


@pytest.mark.parametrize("what", ASKED)
async def test_each_answer_has_the_callers_request_id(what: str) -> None:
    async with http_app(FakeGenerator()) as service:
        response = await ask(service, what, {"X-Request-ID": CALLERS_ID})
    assert response.headers.get_list("x-request-id") == [CALLERS_ID]


@pytest.mark.parametrize("given", [None, "", "two words", 'a"b', "a'b", "a\\b", "x" * 129, "a\tb", "\x7f"])
@pytest.mark.parametrize("what", ASKED)
async def test_each_answer_has_a_request_id_of_its_own_if_the_caller_gave_none(what: str, given: str | None) -> None:
    async with http_app(FakeGenerator()) as service:
        headers = {} if given is None else {"x-request-id": given}
        responses = [await ask(service, what, headers) for _ in range(2)]
    ids = [response.headers["x-request-id"] for response in responses]
    assert all(ids)
    assert given not in ids
    assert ids[0] != ids[1]


async def test_what_is_logged_of_a_defect_is_the_id_that_the_caller_sees(caplog: pytest.LogCaptureFixture) -> None:
    async with http_app(FakeGenerator(fail_with=ValueError("secret"))) as service:
        response = await ask(service, "answer", {})
    [record] = caplog.records
    assert f"request_id={response.headers['x-request-id']} " in record.getMessage()


async def test_unforeseen_error_is_logged_with_the_callers_request_id(caplog: pytest.LogCaptureFixture) -> None:
    async with http_app(FakeGenerator(fail_with=ValueError("secret"))) as service:
        response = await ask(service, "answer", {"x-request-id": CALLERS_ID})
    assert response.status_code == 500
    assert "secret" not in response.text
    [record] = caplog.records
    assert CALLERS_ID in record.getMessage()


@pytest.mark.parametrize("what", ["answer", "stream"])
@pytest.mark.parametrize("fail_after", [0, 1])
@pytest.mark.parametrize("error", [BatchFailed("no memory"), ValueError("secret")])
async def test_failed_answer_is_logged_once_with_the_callers_request_id(
    what: str, fail_after: int, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with http_app(FakeGenerator(fail_with=error, fail_after=fail_after)) as service:
        await ask(service, what, {"x-request-id": CALLERS_ID})
    [record] = caplog.records
    assert f"request_id={CALLERS_ID}" in record.getMessage()


ORIGIN = "https://pages.example"


def preflight(origin: str) -> dict[str, str]:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    return {"origin": origin, **asked}


@pytest.mark.parametrize("allowed", [ORIGIN, "*"])
async def test_pages_of_an_allowed_origin_may_ask(allowed: str) -> None:
    async with http_app(FakeGenerator(), cors_origins=(allowed,)) as service:
        before = await service.http.options(COMPLETIONS, headers=preflight(ORIGIN))
        assert before.status_code == 200
        assert "authorization" in before.headers["access-control-allow-headers"].lower()
        for what in ASKED:  # errors too, else the page cannot read them
            response = await ask(service, what, {"origin": ORIGIN})
            assert response.headers["access-control-allow-origin"] == allowed
            assert "x-request-id" in response.headers["access-control-expose-headers"]


async def test_pages_of_other_origins_may_not() -> None:
    async with http_app(FakeGenerator(), cors_origins=("https://other.example",)) as service:
        before = await service.http.options(COMPLETIONS, headers=preflight(ORIGIN))
        assert before.status_code == 400
        assert "access-control-allow-origin" not in (await ask(service, "answer", {"origin": ORIGIN})).headers


async def test_no_page_may_ask_by_default() -> None:
    async with http_app(FakeGenerator()) as service:
        before = await service.http.options(COMPLETIONS, headers=preflight(ORIGIN))
        assert before.status_code == 405
        assert "POST" in before.headers["allow"]
        assert "access-control-allow-origin" not in (await ask(service, "answer", {"origin": ORIGIN})).headers


@pytest.mark.parametrize(
    "origin",
    ["https://pages.example", "http://10.0.0.7:8080", "http://[::1]:3000", "https://a:80", "app://a_b.c", "*"],
)
def test_an_origin_as_browsers_send_it_is_taken(origin: str) -> None:
    assert Config(control_endpoint="ipc:///nowhere", cors_origins=(origin,)).cors_origins == (origin,)


@pytest.mark.parametrize(
    "origin", ["https://Pages.example", "http://a:80", "https://a:443", "https://b\u00fccher.example", "https://me@a"]
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(SettingRefused, match=r"--cors-origin: got .*as browsers send it"):
        Config(control_endpoint="ipc:///nowhere", cors_origins=(origin,))


@pytest.mark.parametrize("origin", ["", "pages.example", "https://pages.example/", "https://", "https://a b"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(SettingRefused, match=r"--cors-origin: got .*SCHEME://HOST"):
        Config(control_endpoint="ipc:///nowhere", cors_origins=(origin,))


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/fake"])
async def test_without_worker_each_answer_says_when_to_come_back(path: str) -> None:
    async with http_app(FakeGenerator(model=None, worker_state=WorkerState.ABSENT)) as service:
        hints = []
        for _ in range(4):
            for response in (await service.http.get(path), await service.post(COMPLETIONS, prompt="hello")):
                assert response.status_code == 503
                assert 2 <= int(response.headers["retry-after"]) <= 3
                hints.append(int(response.headers["retry-after-ms"]))
    assert all(2000 <= hint <= 3000 for hint in hints)
    assert len(set(hints)) > 1  # not all together


async def test_lost_worker_says_when_to_come_back() -> None:
    async with http_app(FakeGenerator(fail_with=WorkerUnavailable("the worker is gone"))) as service:
        response = await service.post(CHAT, messages=USER_SAYS_HI)
    assert response.headers["retry-after"]


@pytest.mark.parametrize(
    ("fields", "request_class"),
    [
        ({}, LATENCY_SENSITIVE),
        ({"priority": None}, LATENCY_SENSITIVE),
        ({"priority": 0}, LATENCY_SENSITIVE),
        ({"priority": -5}, LATENCY_SENSITIVE),
        ({"priority": 1}, BEST_EFFORT),
        ({"priority": 10**30}, BEST_EFFORT),
        ({"priority": 1, "service_tier": "auto"}, BEST_EFFORT),
        ({"priority": 1, "service_tier": "default"}, LATENCY_SENSITIVE),
        ({"priority": -1, "service_tier": "flex"}, BEST_EFFORT),
    ],
)
async def test_priority_names_the_class_unless_a_tier_does(
    fields: dict[str, object], request_class: RequestClass
) -> None:
    async with http_app(FakeGenerator()) as service:
        await service.answer(COMPLETIONS, prompt="hello", **fields)
    assert [request.request_class for request in service.generator.submitted] == [request_class]
