"""A base URL may end with /v1 or not: each path is there under both, and judged alike."""

from pathlib import Path

import pytest
from starlette.routing import Route

from scheduler_svc.api.backend import Backend
from scheduler_svc.api.openai.app import make_app
from scheduler_svc.api.openai.connections.base_path import BasePath
from scheduler_svc.api.openai.connections.key_check import rule_of
from scheduler_svc.api.text_generation import TextGenerator
from tests.support.jobs.memory_jobs import MemoryJobs
from tests.support.security.api_keys import entry, gate_of
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import USER_SAYS_HI, error_of, http_app


@pytest.fixture(scope="module")
def routes() -> list[Route]:
    generator = FakeGenerator()
    texts = TextGenerator(generator)
    app = make_app(Backend(generator, texts), 15)
    texts.close()
    return [route for route in app.routes if isinstance(route, Route)]


def both_names(path: str) -> tuple[str, str]:
    bare = path.removeprefix("/v1")
    return bare, f"/v1{bare}"


async def nowhere(*_: object) -> None:
    raise AssertionError("not asked")


def test_every_path_is_met_with_and_without_v1(routes: list[Route]) -> None:
    base_path = BasePath(nowhere, routes)
    for route in routes:
        path = route.path.replace("{", "").replace("}", "").replace(":path", "")
        for name in both_names(path):
            assert base_path.path_of(name) == path
            assert rule_of(base_path.path_of(name)) is rule_of(path) is not None


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v2/completions", "/completionsx", "//completions", ""])
def test_a_path_that_is_no_routes_stays_as_it_is(path: str, routes: list[Route]) -> None:
    assert BasePath(nowhere, routes).path_of(path) == path


async def test_what_is_asked_without_v1_is_answered() -> None:
    async with http_app(FakeGenerator()) as service:
        await service.answer("/completions", prompt="hello", max_tokens=1)
        await service.answer("/chat/completions", messages=USER_SAYS_HI, max_tokens=1)
        await service.answer("/v1/tokenize", prompt="hello")
        await service.answer("/v1/detokenize", tokens=[5])
        for path in ("/models", "/models/fake", "/v1/health", "/v1/version", "/v1/metrics", "/v1", "/v1/"):
            assert (await service.http.get(path)).status_code == 200, path
        assert (await service.http.get("/completions")).status_code == 405
        assert (await service.http.get("/nothing")).status_code == 404


async def test_an_upload_without_v1_is_read_as_an_upload() -> None:
    async with http_app(FakeGenerator(), jobs=MemoryJobs()) as service:
        large = b"x" * (5 << 20)  # more than any other body may have
        files = {"file": ("a.jsonl", large), "purpose": (None, "batch")}
        response = await service.http.post("/files", files=files)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", ["/completions", "/models", "/v1/metrics", "/v1/tokenize", "/files", "/v1"])
async def test_the_other_name_of_a_path_needs_the_same_key(path: str, tmp_path: Path) -> None:
    gate = gate_of(tmp_path / "keys.toml", entry("a", "key-a"))
    async with http_app(FakeGenerator(), gate=gate) as service:
        response = await service.http.post(path, json={"prompt": "hello"})
        assert response.status_code == 401
        assert error_of(response)["code"] == "invalid_api_key"


async def test_the_root_names_the_model_its_state_and_every_path(routes: list[Route]) -> None:
    async with http_app(FakeGenerator()) as service:
        root = (await service.http.get("/")).json()
    assert (root["name"], root["model"], root["worker"], root["api"]) == ("QLLM", "fake", "ready", "/openapi.json")
    assert set(root["paths"]) == {route.path.replace(":path", "") for route in routes} - {"/"}
