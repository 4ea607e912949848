"""Cuts a stream of items into chunks that a transaction may hold, so that no job is ever whole in memory."""

from collections.abc import AsyncGenerator, AsyncIterable

from scheduler_svc.jobs.job import NewItem

MAX_CHUNK_ITEMS = 500
MAX_CHUNK_BYTES = 1 << 20


async def chunks_of(items: AsyncIterable[NewItem]) -> AsyncGenerator[list[NewItem], None]:
    """Yields the items in lists: none is empty, and none holds more than one item beyond MAX_CHUNK_BYTES."""
    chunk: list[NewItem] = []
    num_bytes = 0
    async for item in items:
        chunk.append(item)
        num_bytes += len(item.body)
        if len(chunk) == MAX_CHUNK_ITEMS or num_bytes >= MAX_CHUNK_BYTES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk
