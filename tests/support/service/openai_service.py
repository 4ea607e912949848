"""The HTTP application over a fake generator, with a client to it: by itself, or in the real server on a free port."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from scheduler_svc.api.backend import Backend
from scheduler_svc.api.listening import Listening
from scheduler_svc.api.openai.app import make_app
from scheduler_svc.api.openai.batches.file_routes import UPLOADS
from scheduler_svc.api.openai.connections.base_path import BasePath
from scheduler_svc.api.openai.connections.envelope import Envelope
from scheduler_svc.api.openai.connections.guard import RequestGuard
from scheduler_svc.api.openai.connections.key_check import KeyCheck
from scheduler_svc.api.openai.connections.limits import DEFAULT_LIMITS, HttpLimits
from scheduler_svc.api.openai.server import OpenAiServer
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.security.gate import Gate
from scheduler_svc.security.tls import Certificates, TlsFiles
from tests.support.jobs.memory_jobs import MemoryJobs
from tests.support.service.fakes import FakeGenerator

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
_OF_ONE_ANSWER = ("id", "created", "created_at", "completed_at", "service_tier")
USER_SAYS_HI = [{"role": "user", "content": "hi"}]


@dataclass
class HttpService:
    """The application and a client's way to it."""

    generator: FakeGenerator
    http: httpx2.AsyncClient
    texts: TextGenerator

    async def post(self, path: str, **body: object) -> httpx2.Response:
        return await self.http.post(path, json=body)

    async def answer(self, path: str, **body: object) -> dict[str, Any]:
        response = await self.post(path, **body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def chunks(self, path: str, **body: object) -> list[dict[str, Any]]:
        """Returns the objects of a stream that ends with [DONE]."""
        response = await self.post(path, stream=True, **body)
        assert response.status_code == 200, response.text
        *chunks, done = events_of(response.text)
        assert done == "[DONE]"
        return [json.loads(chunk) for chunk in chunks]


@dataclass
class HttpServer(HttpService):
    """The same in a running server."""

    server: OpenAiServer


def said_in(answer: Any) -> Any:
    """Returns an answer without what differs from one answer to another that says the same."""
    if isinstance(answer, dict):
        return {name: said_in(value) for name, value in answer.items() if name not in _OF_ONE_ANSWER}
    return [said_in(one) for one in answer] if isinstance(answer, list) else answer


def events_of(text: str) -> list[str]:
    """Returns what is in the events of a whole stream."""
    *events, rest = text.split("\n\n")
    assert rest == ""
    assert all(event.startswith("data: ") for event in events)
    return [event.removeprefix("data: ") for event in events]


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """Returns the error, which must have OpenAI's form."""
    content = response.json()
    assert list(content) == ["error"]
    assert set(content["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = content["error"]
    return error


@asynccontextmanager
async def http_app(
    generator: FakeGenerator,
    *,
    comment_interval_s: float = 15,
    cors_origins: tuple[str, ...] = (),
    jobs: MemoryJobs | None = None,
    gate: Gate | None = None,
) -> AsyncIterator[HttpService]:
    """Calls the application without a server, which is faster; a stream arrives when it is over."""
    texts = TextGenerator(generator)
    app = make_app(Backend(generator, texts, jobs), comment_interval_s)
    guard = RequestGuard(app, uploads=UPLOADS)
    checked = guard if gate is None else KeyCheck(guard, gate)
    transport = httpx2.ASGITransport(Envelope(BasePath(checked, app.routes), cors_origins))
    async with httpx2.AsyncClient(base_url="http://service", transport=transport) as http:
        yield HttpService(generator, http, texts)
    texts.close()


def openai_server(generator: FakeGenerator, host: str = "127.0.0.1", port: int = 0) -> OpenAiServer:
    """Returns a server that is not started yet."""
    return OpenAiServer(Backend(generator, TextGenerator(generator)), Listening(host, port))


@asynccontextmanager
async def running_http(
    generator: FakeGenerator,
    grace_s: float = 0,
    limits: HttpLimits = DEFAULT_LIMITS,
    cors_origins: tuple[str, ...] = (),
    jobs: MemoryJobs | None = None,
    gate: Gate | None = None,
    tls: TlsFiles | None = None,
) -> AsyncIterator[HttpServer]:
    """Runs a server until the block ends; the client speaks plainly and has no key."""
    texts = TextGenerator(generator)
    certificates = None if tls is None else Certificates(tls)
    listening = Listening(gate=gate, certificates=certificates)
    server = OpenAiServer(Backend(generator, texts, jobs), listening, grace_s, limits, cors_origins)
    server.bind()
    serving = server.start()
    try:
        async with httpx2.AsyncClient(base_url=f"http://{server.address}", timeout=300) as http:
            yield HttpServer(generator, http, texts, server)
    finally:
        await server.stop()
        texts.close()
        assert serving.done()
