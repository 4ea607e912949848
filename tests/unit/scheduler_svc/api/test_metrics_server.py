"""The port of the metrics answers scrapers, and whoever is silent, slow or wrong keeps nobody out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from scheduler_svc.api.metrics_server import MAX_CONNECTIONS, MetricsServer

PAGE = b"a_metric 1.0\n"
GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"


@asynccontextmanager
async def running(page: Callable[[], bytes] = lambda: PAGE, timeout_s: float = 100) -> AsyncIterator[MetricsServer]:
    server = MetricsServer(page, "127.0.0.1", 0, timeout_s=timeout_s)
    server.bind()
    await server.start()
    try:
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def connected(server: MetricsServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def ask(server: MetricsServer, *parts: bytes) -> bytes:
    """Sends the parts of a request one by one; returns everything that comes until the server closes."""
    async with connected(server) as (reader, writer):
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)
        return await reader.read()


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110  (nothing tells when)
        await asyncio.sleep(0.001)


async def test_the_page_comes_whole_with_its_type_and_length() -> None:
    async with running() as server:
        head, _, body = (await ask(server, GET)).partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    assert (status, body) == ("HTTP/1.1 200 OK", PAGE)
    assert "content-type: text/plain; version=0.0.4; charset=utf-8" in headers
    assert f"content-length: {len(PAGE)}" in headers
    assert "connection: close" in headers


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics?name[]=up HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (16 << 10), b"431"),
    ],
)
async def test_anything_else_is_told_where_the_metrics_are(request_: bytes, status: bytes) -> None:
    async with running() as server:
        answer = await ask(server, request_)
    assert answer.split()[1] == status
    assert status == b"200" or answer.endswith(b"metrics are at /metrics\n")


async def test_head_has_no_body() -> None:
    async with running() as server:
        answer = await ask(server, GET.replace(b"GET", b"HEAD"))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\r\n\r\n")


async def test_a_request_may_come_in_pieces() -> None:
    async with running() as server:
        assert (await ask(server, *(GET[i : i + 1] for i in range(len(GET))))).endswith(PAGE)


async def test_silent_connections_keep_nobody_out_and_the_oldest_gives_way() -> None:
    async with running() as server, AsyncExitStack() as silent:
        oldest, _ = await silent.enter_async_context(connected(server))
        for _ in range(3 * MAX_CONNECTIONS):
            await silent.enter_async_context(connected(server))
        assert (await ask(server, GET)).endswith(PAGE)
        with suppress(ConnectionError):
            assert await oldest.read() == b""
        assert server.num_connections <= MAX_CONNECTIONS


async def test_a_client_that_never_ends_its_request_is_cut_off() -> None:
    async with running(timeout_s=0.01) as server, connected(server) as (reader, writer):
        writer.write(GET.rstrip())
        with suppress(ConnectionError):
            assert await reader.read() == b""


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    pages = [b"x" * (32 << 20)]  # more than the system's buffers take
    async with running(pages.pop, timeout_s=0.1) as server, connected(server) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET)
        await until(lambda: not pages)
        await until(lambda: server.num_connections == 0)


async def test_a_page_that_cannot_be_made_is_an_error_and_the_next_one_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pages = [PAGE]

    async with running(lambda: pages.pop()) as server:
        assert (await ask(server, GET)).endswith(PAGE)
        assert (await ask(server, GET)).startswith(b"HTTP/1.1 500")
        pages.append(PAGE)
        assert (await ask(server, GET)).endswith(PAGE)
    assert "metrics failed unexpectedly" in caplog.text


async def test_a_server_that_stops_cuts_off_who_is_connected_and_listens_no_more() -> None:
    async with running() as server, connected(server) as (reader, _):
        await until(lambda: server.num_connections == 1)
        server.stop()
        with suppress(ConnectionError):
            assert await reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await ask(server, GET)
