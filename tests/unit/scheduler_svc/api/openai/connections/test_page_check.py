"""A web page of somebody else's has nothing done by a service without keys; programs and allowed pages do."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from scheduler_svc.api.backend import Backend
from scheduler_svc.api.listening import Listening
from scheduler_svc.api.openai.connections.limits import DEFAULT_LIMITS
from scheduler_svc.api.openai.server import OpenAiServer
from scheduler_svc.api.text_generation import TextGenerator
from tests.support.jobs.memory_jobs import MemoryJobs
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import COMPLETIONS, error_of

PAGES = "https://pages.example"
UPLOAD = {"file": ("a.jsonl", b"{}"), "purpose": (None, "batch")}


@pytest.fixture(params=[frozenset({"pages.example"}), None], ids=["names of this machine", "any name"])
async def http(request: pytest.FixtureRequest) -> AsyncIterator[httpx2.AsyncClient]:
    """A service for this machine alone, and one that is told to be there for whoever reaches it."""
    generator = FakeGenerator()
    texts = TextGenerator(generator)
    backend = Backend(generator, texts, MemoryJobs())
    server = OpenAiServer(backend, Listening(names=request.param), 0, DEFAULT_LIMITS, (PAGES,))
    server.bind()
    server.start()
    async with httpx2.AsyncClient(base_url=f"http://{server.address}", timeout=60) as client:
        yield client
    await server.stop()
    texts.close()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", f"{PAGES}:444"])
async def test_a_page_of_another_origin_uploads_and_cancels_nothing(http: httpx2.AsyncClient, origin: str) -> None:
    headers = {"origin": origin}
    for response in (
        await http.post("/v1/files", files=UPLOAD, headers=headers),
        await http.post("/v1/batches/x/cancel", headers=headers),
        await http.post("/batches/x/cancel", headers=headers),
        await http.delete("/v1/files/x", headers=headers),
        await http.post(COMPLETIONS, content=b'{"prompt": "a"}', headers={**headers, "content-type": "text/plain"}),
    ):
        assert response.status_code == 403
        assert error_of(response)["message"].startswith(f"origin: got {origin!r}, allowed are this service's own")
        assert response.headers["x-request-id"]
    assert (await http.get("/v1/files")).json()["data"] == []


async def test_programs_and_pages_that_are_let_in_upload(http: httpx2.AsyncClient) -> None:
    own = f"http://{http.base_url.host}:{http.base_url.port}"
    for headers in ({}, {"origin": PAGES}, {"origin": own}):
        assert (await http.post("/v1/files", files=UPLOAD, headers=headers)).status_code == 200
    assert (await http.get("/v1/models", headers={"origin": "http://evil.example"})).status_code == 200
    asked = {"prompt": "hello", "max_tokens": 1}  # called JSON: a browser would have asked first
    assert (await http.post(COMPLETIONS, json=asked, headers={"origin": "app://desktop"})).status_code == 200
