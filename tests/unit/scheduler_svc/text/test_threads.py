"""Long texts are worked on by threads, one a class, and a backlog of them is bounded."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from scheduler_svc.caller import set_caller
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import Overloaded
from scheduler_svc.text.threads import INLINE_CHARS, VERY_LONG_CHARS, TextThreads

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
LONG = INLINE_CHARS + 1


@pytest.fixture
def threads() -> Iterator[TextThreads]:
    pool = TextThreads(max_waiting_chars=3 * LONG)
    yield pool
    pool.close()


async def test_short_work_is_done_at_once(threads: TextThreads) -> None:
    assert await threads.run(LS, INLINE_CHARS, threading.get_ident) == threading.get_ident()


async def test_others_have_a_turn_before_each_short_work(threads: TextThreads) -> None:
    done: list[str] = []

    async def one_after_another() -> None:
        for index in range(3):
            await threads.run(LS, 1, partial(done.append, f"work {index}"))

    async def other() -> None:
        for index in range(3):
            done.append(f"turn {index}")
            await asyncio.sleep(0)

    await asyncio.gather(one_after_another(), other())
    assert done == ["turn 0", "work 0", "turn 1", "work 1", "turn 2", "work 2"]


async def test_long_work_is_done_elsewhere(threads: TextThreads) -> None:
    assert await threads.run(LS, LONG, threading.get_ident) != threading.get_ident()


async def test_best_effort_texts_do_not_hold_up_latency_sensitive_ones(threads: TextThreads) -> None:
    go_on = threading.Event()
    stuck = asyncio.create_task(threads.run(BE, LONG, go_on.wait))
    await asyncio.sleep(0)
    async with asyncio.timeout(300):
        assert await threads.run(LS, LONG, lambda: "done") == "done"
    assert not stuck.done()
    go_on.set()
    assert await stuck


async def test_backlog_is_bounded_for_each_class(threads: TextThreads) -> None:
    go_on = threading.Event()
    waiting = [asyncio.create_task(threads.run(BE, LONG, go_on.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="best-effort"):
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


async def test_very_long_texts_do_not_hold_up_normal_ones_of_their_class() -> None:
    threads = TextThreads()
    go_on = threading.Event()
    stuck = [asyncio.create_task(threads.run(LS, VERY_LONG_CHARS + 1, go_on.wait)) for _ in range(8)]
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        assert await threads.run(LS, VERY_LONG_CHARS, lambda: "done") == "done"
    go_on.set()
    assert all(await asyncio.gather(*stuck))
    threads.close()


async def test_shorter_texts_pass_longer_ones_that_wait() -> None:
    threads = TextThreads()
    go_on = threading.Event()
    done: list[int] = []
    sizes = [LONG, 3 * LONG, 2 * LONG, 2 * LONG]
    running = asyncio.create_task(threads.run(LS, LONG, go_on.wait))
    await asyncio.sleep(0)
    waiting = [
        asyncio.create_task(threads.run(LS, size, lambda index=index: done.append(index)))  # type: ignore[misc]
        for index, size in enumerate(sizes)
    ]
    await asyncio.sleep(0)
    waiting[0].cancel()
    go_on.set()
    await asyncio.gather(running, *waiting, return_exceptions=True)
    assert done == [2, 3, 1]
    threads.close()


async def run_as(client: str, threads: TextThreads, num_chars: int, work: Callable[[], object]) -> object:
    set_caller(client)
    return await threads.run(LS, num_chars, work)


async def order_done(threads: TextThreads, waiting: list[tuple[str, int, str]]) -> list[str]:
    """Returns the names of texts, each with its client and length, in the order in which they are worked on."""
    go_on = threading.Event()
    done: list[str] = []
    running = asyncio.create_task(run_as("first", threads, LONG, go_on.wait))
    await asyncio.sleep(0)
    tasks = [
        asyncio.create_task(run_as(client, threads, num_chars, partial(done.append, name)))
        for client, num_chars, name in waiting
    ]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(running, *tasks)
    threads.close()
    return done


async def test_clients_take_turns_however_much_one_has_waiting() -> None:
    waiting = [("a", LONG, f"a{index}") for index in range(4)]
    waiting += [("b", VERY_LONG_CHARS, "b0"), ("b", LONG, "b1"), ("c", LONG, "c0")]
    assert await order_done(TextThreads(), waiting) == ["a0", "b1", "c0", "a1", "b0", "a2", "a3"]


async def test_a_short_text_passes_long_ones_that_came_seconds_before() -> None:
    now_s = iter([*range(8), 12, 30])
    waiting = [("a", VERY_LONG_CHARS, str(index)) for index in range(8)]
    waiting += [("a", 3_000, "soon"), ("a", 3_000, "late")]
    done = await order_done(TextThreads(clock=lambda: next(now_s)), waiting)
    assert done == ["soon", *map(str, range(8)), "late"]


async def test_one_client_leaves_room_for_the_texts_of_others() -> None:
    threads = TextThreads(max_waiting_chars=4 * LONG, max_client_chars=3 * LONG)
    go_on = threading.Event()
    waiting = [asyncio.create_task(run_as("a", threads, LONG, go_on.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="of one client: more than"):
        await run_as("a", threads, LONG, go_on.wait)
    waiting.append(asyncio.create_task(run_as("b", threads, LONG, go_on.wait)))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="latency-sensitive: more than"):
        await run_as("c", threads, LONG, go_on.wait)
    go_on.set()
    await asyncio.gather(*waiting)
    assert await run_as("a", threads, 3 * LONG, lambda: "done") == "done"
    threads.close()


async def test_a_caller_that_leaves_when_its_turn_has_come_hands_it_on() -> None:
    threads = TextThreads()
    go_on = threading.Event()
    running = asyncio.create_task(threads.run(LS, LONG, go_on.wait))
    await asyncio.sleep(0)
    leaving = asyncio.create_task(threads.run(LS, LONG, lambda: "left"))
    await asyncio.sleep(0)
    go_on.set()
    await running
    leaving.cancel()
    async with asyncio.timeout(2):
        assert await threads.run(LS, LONG, lambda: "done") == "done"
    threads.close()
