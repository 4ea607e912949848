"""Long texts are worked on by threads, one a class, and a backlog of them is bounded."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from scheduler_svc.core.sequence import RequestClass
from scheduler_svc.errors import Overloaded
from scheduler_svc.text_threads import INLINE_CHARS, TextThreads

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
LONG = INLINE_CHARS + 1


@pytest.fixture
def threads() -> Iterator[TextThreads]:
    pool = TextThreads(max_waiting_chars=3 * LONG)
    yield pool
    pool.close()


async def test_short_work_is_done_at_once(threads: TextThreads) -> None:
    assert await threads.run(LS, INLINE_CHARS, threading.get_ident) == threading.get_ident()


async def test_long_work_is_done_elsewhere(threads: TextThreads) -> None:
    assert await threads.run(LS, LONG, threading.get_ident) != threading.get_ident()


async def test_best_effort_texts_do_not_hold_up_latency_sensitive_ones(threads: TextThreads) -> None:
    go_on = threading.Event()
    stuck = asyncio.create_task(threads.run(BE, LONG, go_on.wait))
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        assert await threads.run(LS, LONG, lambda: "done") == "done"
    assert not stuck.done()
    go_on.set()
    assert await stuck


async def test_backlog_is_bounded_for_each_class(threads: TextThreads) -> None:
    go_on = threading.Event()
    waiting = [asyncio.create_task(threads.run(BE, LONG, go_on.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="BEST_EFFORT"):
        await threads.run(BE, LONG, go_on.wait)
    assert await threads.run(LS, LONG, lambda: "done") == "done"
    go_on.set()
    await asyncio.gather(*waiting)
    assert await threads.run(BE, LONG, lambda: "done") == "done"


async def test_cancelled_and_failed_work_leaves_the_backlog(threads: TextThreads) -> None:
    go_on = threading.Event()
    waiting = [asyncio.create_task(threads.run(BE, LONG, go_on.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    go_on.set()
    with pytest.raises(ZeroDivisionError):
        await threads.run(BE, 3 * LONG, lambda: 1 // 0)
    assert await threads.run(BE, 3 * LONG, lambda: "done") == "done"
