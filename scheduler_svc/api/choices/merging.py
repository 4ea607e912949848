"""Reads several generations at once. Knows nothing of what is read."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


async def merged(sources: Sequence[AsyncIterable[Item]]) -> AsyncGenerator[tuple[int, Item], None]:
    """Yields what the sources yield, as it comes, with the index of its source; raises what the first of them raises.

    Each source is asked for its next item only when the last one has been taken: what is
    not read is not collected here.
    """
    if len(sources) == 1:
        async for item in sources[0]:
            yield 0, item
        return
    iterators = [aiter(source) for source in sources]
    waiting = {asyncio.ensure_future(anext(iterator)): index for index, iterator in enumerate(iterators)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                index = waiting.pop(future)
                try:
                    item = future.result()
                except StopAsyncIteration:
                    continue
                waiting[asyncio.ensure_future(anext(iterators[index]))] = index
                yield index, item
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
