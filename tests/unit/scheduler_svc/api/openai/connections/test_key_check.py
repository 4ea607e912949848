"""Over HTTP nothing but health is open where there are API keys, and refusals are such as OpenAI's clients know."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import openai
import pytest
from starlette.routing import Route

from scheduler_svc.api.backend import Backend
from scheduler_svc.api.openai.app import make_app
from scheduler_svc.api.openai.connections.key_check import rule_of
from scheduler_svc.api.text_generation import TextGenerator
from tests.support.security.api_keys import entry, gate_of
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import COMPLETIONS, HttpService, error_of, http_app, running_http

OPEN = ("/health", "/health/live", "/health/ready", "/ping")
KEYS = (
    entry("a", "key-a"),
    entry("b", "key-b"),
    entry("batch", "key-be", classes=["be"]),
    entry("watch", "key-watch", ["observe"]),
    entry("ops", "key-ops", ["admin"]),
    entry("few", "key-few", max_live=1, tokens_per_minute=600),
)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def routes() -> list[tuple[str, str]]:
    """Returns the method and a path of every route of the application."""
    generator = FakeGenerator()
    texts = TextGenerator(generator)
    app = make_app(Backend(generator, texts), 15)
    texts.close()
    found = [(method, route) for route in app.routes if isinstance(route, Route) for method in route.methods or ()]
    return [(method, re.sub(r"\{[^}]*\}", "x", route.path)) for method, route in found]


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
async def service(tmp_path: Path, generator: FakeGenerator) -> AsyncIterator[HttpService]:
    async with http_app(generator, gate=gate_of(tmp_path / "keys.toml", *KEYS), cors_origins=("*",)) as service:
        yield service


async def complete(service: HttpService, key: str, **body: object) -> httpx2.Response:
    asked = {"prompt": "hello", "max_tokens": 2, **body}
    return await service.http.post(COMPLETIONS, json=asked, headers=bearer(key))


async def test_every_route_is_refused_without_a_key(service: HttpService) -> None:
    paths = {path for _, path in routes()}
    assert paths >= {"/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/models/x", "/metrics", "/version"}
    assert paths >= {"/v1/files", "/v1/files/x", "/v1/files/x/content", "/v1/batches", "/v1/batches/x"}
    for method, path in routes():
        for headers in ({}, bearer("nobody's"), {"authorization": "Basic a2V5"}):
            response = await service.http.request(method, path, headers=headers)
            if path in OPEN:
                assert response.status_code == 200
                continue
            assert (method, path, response.status_code) == (method, path, 401)
            assert response.headers["www-authenticate"].startswith("Bearer")
            if method != "HEAD":
                error = error_of(response)
                assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
                assert "API key" in error["message"]


def test_every_route_has_a_rule() -> None:
    assert [path for _, path in routes() if rule_of(path) is None] == []


@pytest.mark.parametrize("path", ["/", "/nothing", "/health/", "/HEALTH", "/v1"])
async def test_a_path_that_is_not_there_is_refused_like_any_other(service: HttpService, path: str) -> None:
    assert (await service.http.get(path)).status_code == 401


async def test_a_path_without_a_rule_is_not_there_but_for_who_may_administer(service: HttpService) -> None:
    for key in ("key-a", "key-ops"):
        response = await service.http.get("/nothing", headers=bearer(key))
        assert response.status_code == 404
        assert error_of(response)["message"] == "GET /nothing: Not Found"


async def test_who_has_a_key_is_answered(service: HttpService, generator: FakeGenerator) -> None:
    assert (await complete(service, "key-a")).status_code == 200
    assert generator.submitted[0].tenant == "a"
    assert (await service.http.get("/v1/models", headers=bearer("key-watch"))).status_code == 200


async def test_metrics_need_the_permission_to_observe(service: HttpService) -> None:
    refused = await service.http.get("/metrics", headers=bearer("key-a"))
    assert refused.status_code == 403
    error = error_of(refused)
    assert error["code"] == "permission_denied"
    assert error["message"] == "GET /metrics needs the permission 'observe'; this key has 'generate'"
    for key in ("key-watch", "key-ops"):
        assert (await service.http.get("/metrics", headers=bearer(key))).status_code == 200


async def test_a_class_that_a_key_may_not_have_is_refused_by_those_that_it_may(service: HttpService) -> None:
    for stream in (False, True):
        refused = await complete(service, "key-be", stream=stream)
        assert refused.status_code == 403
        assert "allowed with this key is best-effort (be)" in error_of(refused)["message"]
    assert (await complete(service, "key-be", service_tier="flex")).status_code == 200


async def test_files_and_jobs_need_the_class_best_effort(tmp_path: Path, generator: FakeGenerator) -> None:
    keys = (entry("chat", "key-ls", classes=["ls"]), *KEYS)
    async with http_app(generator, gate=gate_of(tmp_path / "keys.toml", *keys)) as service:
        for path in ("/v1/files", "/v1/batches/x"):
            refused = await service.http.get(path, headers=bearer("key-ls"))
            assert refused.status_code == 403
            assert "got best-effort, allowed with this key is latency-sensitive" in error_of(refused)["message"]
            assert (await service.http.get(path, headers=bearer("key-be"))).status_code not in (401, 403)


async def test_a_quota_that_is_used_up_is_refused_with_the_time_to_come_back(service: HttpService) -> None:
    # 5 tokens of the prompt and 400 of the output are taken; two are used.
    assert (await complete(service, "key-few", max_tokens=400, stop=["l"])).status_code == 200
    assert (await complete(service, "key-few", max_tokens=500, n=2)).status_code == 429  # two at a time
    assert (await complete(service, "key-few", max_tokens=500)).status_code == 200
    refused = await complete(service, "key-few", max_tokens=500)
    assert refused.status_code == 429
    error = error_of(refused)
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "quota of tenant few: allowed are 600 tokens a minute" in error["message"]
    assert int(refused.headers["retry-after"]) >= 1


async def test_an_answer_that_was_given_up_gives_its_place_back(service: HttpService, generator: FakeGenerator) -> None:
    generator.fail_with = RuntimeError("a defect")
    assert (await complete(service, "key-few")).status_code == 500
    generator.fail_with = None
    assert (await complete(service, "key-few")).status_code == 200


async def test_a_refused_request_keeps_its_id_and_lets_web_pages_read_why(service: HttpService) -> None:
    headers = {"origin": "https://example.org", "x-request-id": "mine"}
    refused = await service.http.get("/version", headers=headers)
    assert refused.status_code == 401
    assert refused.headers["x-request-id"] == "mine"
    assert refused.headers["access-control-allow-origin"] == "*"


async def test_a_browser_may_ask_whether_it_may_ask(service: HttpService) -> None:
    headers = {
        "origin": "https://example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    allowed = await service.http.options(COMPLETIONS, headers=headers)
    assert allowed.status_code == 200
    assert "authorization" in allowed.headers["access-control-allow-headers"]


async def test_openais_client_knows_the_refusals(tmp_path: Path, generator: FakeGenerator) -> None:
    async with running_http(generator, gate=gate_of(tmp_path / "keys.toml", *KEYS)) as service:

        def client(key: str) -> openai.AsyncOpenAI:
            return openai.AsyncOpenAI(base_url=f"http://{service.server.address}/v1", api_key=key, max_retries=0)

        async with client("nobody's") as stranger, client("key-be") as batch, client("key-a") as known:
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()
            with pytest.raises(openai.PermissionDeniedError):
                await batch.completions.create(model="fake", prompt="hello")
            assert (await known.completions.create(model="fake", prompt="hello", max_tokens=1)).choices
