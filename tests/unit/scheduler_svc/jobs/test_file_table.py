import asyncio
from collections.abc import AsyncIterator

import pytest

from scheduler_svc.errors import InvalidRequest
from scheduler_svc.jobs import limits
from scheduler_svc.jobs.store.file_table import PIECE_BYTES
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.clock import Clock


async def sent(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def content(store: JobStore, file_id: str, tenant: str = "t") -> list[bytes]:
    return [piece async for piece in store.read_file(tenant, file_id)]


async def test_a_file_is_read_as_it_came_in_pieces_of_one_size(store: JobStore, clock: Clock) -> None:
    first, second = b"a" * (PIECE_BYTES - 1), b"b" * (PIECE_BYTES + 10)
    file = await store.create_file("t", "input.jsonl", "batch", sent(first, b"", second))
    assert (file.num_bytes, file.filename, file.purpose, file.created_at_s) == (
        2 * PIECE_BYTES + 9,
        "input.jsonl",
        "batch",
        clock.now_s,
    )
    assert await store.file("t", file.file_id) == file
    pieces = await content(store, file.file_id)
    assert [len(piece) for piece in pieces] == [PIECE_BYTES, PIECE_BYTES, 9]
    assert b"".join(pieces) == first + second


async def test_a_file_may_be_empty(store: JobStore) -> None:
    file = await store.create_file("t", "f", "batch", sent())
    assert await content(store, file.file_id) == []
    assert await store.file("t", file.file_id) == file


async def test_a_tenant_finds_nothing_of_anothers_file(store: JobStore) -> None:
    file = await store.create_file("t", "f", "batch", sent(b"secret"))
    assert await store.file("u", file.file_id) is None
    assert await store.files("u", None, 10) == ([], False)
    assert await content(store, file.file_id, "u") == []
    assert not await store.delete_file("u", file.file_id)
    assert await content(store, file.file_id) == [b"secret"]


async def test_files_are_listed_newest_first_in_pages(store: JobStore) -> None:
    names = [(await store.create_file("t", name, "batch", sent(b"x"))).file_id for name in "abc"]
    newest, has_more = await store.files("t", None, 2)
    assert ([file.file_id for file in newest], has_more) == ([names[2], names[1]], True)
    assert [file.file_id for file in (await store.files("t", names[1], 2))[0]] == [names[0]]


async def test_a_deleted_file_is_gone(store: JobStore) -> None:
    file = await store.create_file("t", "f", "batch", sent(b"x"))
    assert await store.delete_file("t", file.file_id)
    assert not await store.delete_file("t", file.file_id)
    assert await store.file("t", file.file_id) is None
    assert await content(store, file.file_id) == []


async def test_a_file_that_does_not_come_whole_is_no_file(store: JobStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (2 * PIECE_BYTES)
        raise ConnectionError("the sender is gone")

    with pytest.raises(ConnectionError):
        await store.create_file("t", "f", "batch", broken())
    assert await store.files("t", None, 10) == ([], False)


async def test_a_file_whose_sender_gives_up_is_no_file(store: JobStore) -> None:
    came = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * PIECE_BYTES
        came.set()
        await asyncio.Event().wait()

    sending = asyncio.create_task(store.create_file("t", "f", "batch", slow()))
    await came.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert await store.files("t", None, 10) == ([], False)


async def test_a_file_that_is_too_large_is_refused_before_all_of_it_came(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 3 * PIECE_BYTES)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * PIECE_BYTES

    with pytest.raises(InvalidRequest, match=r"file: got 4194304 bytes or more, allowed is at most 3145728 bytes"):
        await store.create_file("t", "f", "batch", endless())
    assert await store.files("t", None, 10) == ([], False)
