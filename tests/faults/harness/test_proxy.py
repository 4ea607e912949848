"""The proxy passes everything on until it is told to cut or to hold."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.harness.proxy import Proxy

LONG_S = 60.0
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo() -> AsyncIterator[str]:
    """A server that sends back what it gets."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionResetError):
            while chunk := await reader.read(1000):
                writer.write(chunk)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Ends]:
    """A client's connection."""
    if proxy.address.startswith("/"):
        ends = await asyncio.open_unix_connection(proxy.address)
    else:
        host, _, port = proxy.address.rpartition(":")
        ends = await asyncio.open_connection(host, int(port))
    try:
        yield ends
    finally:
        ends[1].close()


async def answer_to(text: bytes, ends: Ends) -> bytes:
    ends[1].write(text)
    return await asyncio.wait_for(ends[0].readexactly(len(text)), LONG_S)


async def test_bytes_pass_both_ways_over_tcp_and_unix_sockets() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        async with (
            echo() as target,
            Proxy("127.0.0.1:0", target) as inner,
            Proxy(f"{directory}/s", inner.address) as outer,
            connected(outer) as ends,
        ):
            assert await answer_to(b"hello" * 100_000, ends) == b"hello" * 100_000
            assert outer.num_connections == 1


async def test_a_cut_resets_connections_that_are_open_and_none_that_come_later() -> None:
    async with echo() as target, Proxy("127.0.0.1:0", target) as proxy:
        async with connected(proxy) as ends:
            await answer_to(b"before", ends)
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(ends[0].read(), LONG_S)
        async with connected(proxy) as ends:
            assert await answer_to(b"after", ends) == b"after"


async def test_what_is_held_back_comes_later_and_whole() -> None:
    async with echo() as target, Proxy("127.0.0.1:0", target) as proxy, connected(proxy) as ends:
        await answer_to(b"before", ends)
        proxy.hold()
        ends[1].write(b"held")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ends[0].readexactly(1), 0.1)
        proxy.release()
        assert await asyncio.wait_for(ends[0].readexactly(4), LONG_S) == b"held"


async def test_a_client_of_a_server_that_is_not_there_is_cut_off() -> None:
    async with Proxy("127.0.0.1:0", "127.0.0.1:1") as proxy, connected(proxy) as ends:
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(ends[0].read(), LONG_S)
