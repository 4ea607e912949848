"""Connections: who sends no headers is closed, who works keeps the place, and what is no HTTP gets an error in JSON."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx2
import pytest

from scheduler_svc.api.openai.connections.limits import HttpLimits
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.openai_service import COMPLETIONS, HttpServer, error_of, running_http

GET_VERSION = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n"
SLOW_HEADERS = b"GET /version HTTP/1.1\r\nx: "
SLOW_BODY = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
SHORT = HttpLimits(header_timeout_s=0.05)
LONG_S = 20


@dataclass
class Answer:
    """An answer that ended with its connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["error"]["message"])


def parsed(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert int(headers["content-length"]) == len(body)
    return Answer(int(status.split()[1]), headers, body)


@asynccontextmanager
async def connection(service: HttpServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(LONG_S):
        return await reader.read()


async def test_a_connection_without_headers_is_closed() -> None:
    async with running_http(FakeGenerator(), limits=SHORT) as service, connection(service) as (reader, _):
        assert await until_closed(reader) == b""


@pytest.mark.parametrize("before", [b"", GET_VERSION], ids=["first request", "later one"])
async def test_slow_headers_are_cut_however_often_a_byte_comes(before: bytes) -> None:
    async with running_http(FakeGenerator(), limits=SHORT) as service, connection(service) as (reader, writer):
        if before:
            writer.write(before)
            await reader.readuntil(b"}")
        writer.write(SLOW_HEADERS)
        async with asyncio.timeout(LONG_S):
            while not reader.at_eof() and not reader._buffer:  # type: ignore[attr-defined]
                writer.write(b"y")
                await asyncio.sleep(0.01)
        answer = parsed(await until_closed(reader))
    assert answer.status == 408
    assert answer.headers["connection"] == "close"
    assert "within 0.05 s" in answer.message


async def test_a_connection_that_was_asked_something_is_kept_without_a_request() -> None:
    async with running_http(FakeGenerator(), limits=SHORT) as service, connection(service) as (reader, writer):
        for _ in range(3):
            writer.write(GET_VERSION)
            assert b"200 OK" in await reader.readuntil(b"}")
            await asyncio.sleep(3 * SHORT.header_timeout_s)


async def test_a_connection_without_a_next_request_is_closed_in_the_end() -> None:
    limits = HttpLimits(keep_alive_s=0)
    async with running_http(FakeGenerator(), limits=limits) as service, connection(service) as (reader, writer):
        writer.write(GET_VERSION)
        assert b"200 OK" in await until_closed(reader)


async def test_a_body_may_take_longer_than_headers() -> None:
    async with running_http(FakeGenerator(), limits=SHORT) as service, connection(service) as (reader, writer):
        body = b'{"prompt": "hello"}'
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:3])
        await asyncio.sleep(3 * SHORT.header_timeout_s)
        writer.write(body[3:])
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize("said", [b"", SLOW_HEADERS, SLOW_BODY], ids=["nothing", "some headers", "some of a body"])
async def test_slow_connections_keep_nobody_out(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    limits = HttpLimits(max_connections=8)
    generator = FakeGenerator(hold_after=1)
    async with running_http(generator, limits=limits) as service:
        stream = service.http.stream("POST", COMPLETIONS, json={"prompt": "hello", "stream": True})
        async with stream as response:
            with ExitStack() as flood:
                for _ in range(100):
                    slow = flood.enter_context(socket.create_connection(("127.0.0.1", service.server.port)))
                    slow.sendall(said)
                for _ in range(3):
                    async with httpx2.AsyncClient(base_url=service.http.base_url) as newcomer:
                        assert (await newcomer.get("/health")).status_code == 200
                assert len(service.server._room) <= 8
            assert generator.live  # who works does not give way
            assert response.status_code == 200
    assert len([record for record in caplog.records if "connections_full" in record.message]) == 1


async def test_where_each_connection_works_a_new_one_is_refused() -> None:
    generator = FakeGenerator(hold_after=1)
    body = {"prompt": "hello", "stream": True}
    async with running_http(generator, limits=HttpLimits(max_connections=1)) as service:
        async with service.http.stream("POST", COMPLETIONS, json=body) as response:
            assert response.status_code == 200
            async with httpx2.AsyncClient(base_url=service.http.base_url) as newcomer:
                refused = await newcomer.get("/health")
            assert refused.status_code == 503
            assert error_of(refused)["code"] == "service_unavailable"
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["x-request-id"]
            assert generator.live
        while generator.live:  # noqa: ASYNC110  (the fake has no event for it)
            await asyncio.sleep(0.005)
        while len(service.server._room):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        async with httpx2.AsyncClient(base_url=service.http.base_url) as newcomer:
            assert (await newcomer.get("/health")).status_code == 200


async def test_who_still_sends_when_refused_hears_why() -> None:
    body = {"prompt": "hello", "stream": True}
    async with (
        running_http(FakeGenerator(hold_after=1), limits=HttpLimits(max_connections=1)) as service,
        service.http.stream("POST", COMPLETIONS, json=body) as response,
    ):
        assert response.status_code == 200
        client = socket.create_connection(("127.0.0.1", service.server.port))
        client.sendall(GET_VERSION)  # before the server has seen the connection
        reader, writer = await asyncio.open_connection(sock=client)
        async with asyncio.timeout(LONG_S):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(GET_VERSION)
            await writer.drain()
            answer = parsed(head + await reader.read())
        writer.close()
    assert answer.status == 503


def num_connections(service: HttpServer) -> int:
    """Returns how many connections hold a descriptor, with a place or without."""
    server = service.server._server
    assert server is not None
    return len(server.server_state.connections)


def keep_little_on_the_way(service: HttpServer) -> None:
    """Makes the kernel hold little of what is sent over connections that come from now on."""
    assert service.server._listener is not None
    service.server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


@pytest.mark.parametrize("how", ["keep-alive", "close"])
async def test_who_never_reads_an_answer_holds_no_descriptor_beyond_its_place(how: str) -> None:
    script = [65] * 50_000
    generator = FakeGenerator(
        script=lambda _: script, tokens_per_event=len(script), model=served_model(tokenizer_json=b"")
    )
    body = b'{"prompt": [5], "return_token_ids": true}'
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: {how}\r\n"
    async with running_http(generator, limits=HttpLimits(max_connections=2)) as service:
        keep_little_on_the_way(service)
        with ExitStack() as silent:
            for num_asked in range(1, 5):
                client = silent.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", service.server.port))
                client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                async with asyncio.timeout(LONG_S):
                    while len(generator.submitted) < num_asked or service.server.num_running:  # noqa: ASYNC110
                        await asyncio.sleep(0.005)
            async with httpx2.AsyncClient(base_url=service.http.base_url) as newcomer:
                assert (await newcomer.get("/health")).status_code == 200
            assert num_connections(service) <= 2


async def test_the_rest_of_a_body_that_was_answered_early_must_come_in_time() -> None:
    head = (
        f"OPTIONS {COMPLETIONS} HTTP/1.1\r\nhost: x\r\norigin: https://a.example\r\n"
        "access-control-request-method: POST\r\ncontent-length: 100\r\n\r\n"
    )
    limits = HttpLimits(body_timeout_s=0.05)
    async with (
        running_http(FakeGenerator(), limits=limits, cors_origins=("*",)) as service,
        connection(service) as (reader, writer),
    ):
        writer.write(head.encode() + b"x")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"x")
        await until_closed(reader)


async def test_a_connection_is_kept_once_the_rest_of_a_body_came() -> None:
    head = (
        f"OPTIONS {COMPLETIONS} HTTP/1.1\r\nhost: x\r\norigin: https://a.example\r\n"
        "access-control-request-method: POST\r\ncontent-length: 3\r\n\r\n"
    )
    async with (
        running_http(FakeGenerator(hold_after=1), cors_origins=("*",)) as service,
        connection(service) as (reader, writer),
    ):
        for _ in range(2):
            writer.write(head.encode() + b"x")
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readuntil(b"OK") == b"OK"
            writer.write(b"xx" + GET_VERSION)
            assert b"200 OK" in await reader.readuntil(b"}")


NO_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01",
    "text": b"what is this\r\n\r\n",
    "headers without end": b"GET / HTTP/1.1\r\nx: " + b"y" * (1 << 17),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    "a piece of a body": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
}


@pytest.mark.parametrize("raw", NO_HTTP.values(), ids=NO_HTTP)
async def test_what_is_no_http_gets_an_error_in_json_and_no_line_in_the_log(
    raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_http(FakeGenerator()) as service, connection(service) as (reader, writer):
        writer.write(raw)
        answer = parsed(await until_closed(reader))
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert "no HTTP/1.1" in answer.message
    assert caplog.records == []


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
async def test_an_offer_to_upgrade_is_passed_over_in_silence(upgrade: str, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"connection": "Upgrade, HTTP2-Settings", "upgrade": upgrade, "http2-settings": "AAMAAABkAAQAAP__"}
    async with running_http(FakeGenerator()) as service:
        response = await service.http.get("/version", headers=headers)
    assert response.status_code == 200
    assert caplog.records == []


async def test_target_for_a_proxy_is_understood() -> None:
    async with running_http(FakeGenerator()) as service, connection(service) as (reader, writer):
        writer.write(b"GET http://any.host:80/health?x=1 HTTP/1.1\r\nhost: any.host\r\nconnection: close\r\n\r\n")
        answer = parsed(await until_closed(reader))
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with running_http(FakeGenerator()) as service:
        for path in ("/health", "/version", "/v1/models"):
            got, head = await service.http.get(path), await service.http.head(path)
            assert (head.status_code, head.content) == (got.status_code, b"")
            assert head.headers["content-length"] == got.headers["content-length"]
        assert (await service.http.head(COMPLETIONS)).status_code == 405


async def test_headers_without_end_are_refused_before_they_fill_the_memory() -> None:
    async with running_http(FakeGenerator()) as service, connection(service) as (reader, writer):
        writer.write(b"GET /version HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 20_000)
        answer = parsed(await until_closed(reader))
        assert (answer.status, answer.message.partition(",")[0]) == (400, "what came is no HTTP/1.1")
