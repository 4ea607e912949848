"""A web page whose own name was made to lead to this machine asks nothing here, and reads nothing."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from scheduler_svc.api.backend import Backend
from scheduler_svc.api.listening import Listening
from scheduler_svc.api.openai.server import OpenAiServer
from scheduler_svc.api.text_generation import TextGenerator
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import COMPLETIONS, error_of


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    generator = FakeGenerator()
    texts = TextGenerator(generator)
    server = OpenAiServer(Backend(generator, texts), Listening(names=frozenset({"this-machine", "pages.example"})))
    server.bind()
    server.start()
    async with httpx2.AsyncClient(base_url=f"http://{server.address}", timeout=60) as client:
        yield client
    await server.stop()
    texts.close()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", "[x"]
)
async def test_a_page_whose_name_leads_here_is_refused(http: httpx2.AsyncClient, host: str) -> None:
    for method, path in (("GET", "/v1/models"), ("GET", "/v1/files"), ("POST", COMPLETIONS)):
        response = await http.request(method, path, headers={"host": host}, json={"prompt": "hello"})
        assert response.status_code == 421
        assert error_of(response)["message"].startswith(f"host: got {host!r}, allowed are addresses and names of this")


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:8000", "LOCALHOST.", "a.localhost", "127.0.0.1:1", "192.0.2.7", "[::1]:8000", "This-Machine:80"),
        *("pages.example", "host.docker.internal", "printer.local"),
    ],
)
async def test_names_and_addresses_of_this_machine_are_answered_to(http: httpx2.AsyncClient, host: str) -> None:
    assert (await http.get("/version", headers={"host": host})).status_code == 200
