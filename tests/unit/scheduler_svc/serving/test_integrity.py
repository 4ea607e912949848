"""A check on demand compares the core's books with the worker's as of the same moment, and always comes to an end."""

import asyncio

import pytest

from scheduler_svc.core.state.results import IntegrityReport
from scheduler_svc.generation import IntegrityCheck
from scheduler_svc.serving.integrity import MAX_PROBLEM_CHARS, Books, IntegrityChecks, compare
from tests.support.service.engine_bench import EngineBench

NOTHING = {"num_sequences": 0, "num_held_blocks": 0, "num_host_blocks": 0, "num_disk_blocks": 0}


def report(check_id: int = 1, problem: str = "", **counts: int) -> IntegrityReport:
    return IntegrityReport(check_id, problem, **{**NOTHING, **counts}, device_bytes=0, state_bytes=0, suspended_bytes=0)


async def checking(bench: EngineBench) -> asyncio.Task[IntegrityCheck]:
    """Begins a check, up to where it waits for the worker."""
    check = asyncio.create_task(bench.engine.check_integrity())
    while not bench.checks and not check.done():  # noqa: ASYNC110  (the bench has no event for it)
        await asyncio.sleep(0)
    return check


async def answer(bench: EngineBench, number: int, **counts: int) -> None:
    """Waits until the worker is asked for the so-and-so-many-th time, and answers."""
    while len(bench.checks) <= number:  # noqa: ASYNC110  (the bench has no event for it)
        await asyncio.sleep(0.001)
    bench.engine.integrity_reported(report(bench.checks[number].check_id, **counts))


async def test_books_that_agree_are_told_with_what_the_worker_holds() -> None:
    bench = EngineBench()
    bench.submit("a", 3)
    check = await checking(bench)
    await answer(bench, 0, num_sequences=1, num_held_blocks=1)
    assert await check == IntegrityCheck((), num_held_blocks=1, num_sequences=1)


async def test_what_was_decided_before_is_on_its_way_before_the_books_are_read() -> None:
    bench = EngineBench()
    stream = bench.submit("a", 3)
    bench.answer()
    stream.close()
    check = await checking(bench)
    await answer(bench, 0)
    assert (await check).problems == ()


async def test_books_that_differ_are_compared_anew_and_then_are_a_problem() -> None:
    bench = EngineBench()
    check = await checking(bench)
    for number in range(3):
        assert not check.done()
        await answer(bench, number, num_held_blocks=7)
    assert (await check).problems == ("blocks held on the device: 0 by the scheduler's books, 7 by the worker's",)


async def test_books_that_differed_while_an_end_was_on_its_way_agree() -> None:
    bench = EngineBench()
    check = await checking(bench)
    await answer(bench, 0, num_held_blocks=7)
    await answer(bench, 1)
    assert (await check).problems == ()


@pytest.mark.parametrize("field", NOTHING)
def test_each_count_is_compared(field: str) -> None:
    [problem] = compare(Books((), {**NOTHING, field: 3}), report()).problems
    assert problem.endswith(": 3 by the scheduler's books, 0 by the worker's")
    assert compare(Books((), {**NOTHING, field: 3}), report(**{field: 3})).problems == ()


async def test_a_core_that_contradicts_itself_is_a_problem_and_goes_on() -> None:
    bench = EngineBench()
    assert bench.engine._driver.core is not None
    bench.engine._driver.core.memory.pool.allocate(2)  # for nobody
    check = await checking(bench)
    for number in range(3):
        await answer(bench, number, num_held_blocks=2)
    [problem] = (await check).problems
    assert problem.startswith("the scheduler's books: ")
    assert bench.engine.worker_epoch == 5


async def test_without_a_worker_a_check_says_so() -> None:
    bench = EngineBench()
    bench.engine.worker_lost("killed", died=True)
    assert (await bench.engine.check_integrity()).problems == ("no worker is connected, so there is nothing to check",)


async def test_a_worker_that_goes_away_ends_the_check() -> None:
    bench = EngineBench()
    check = await checking(bench)
    bench.engine.worker_lost("killed", died=True)
    assert "no worker is connected" in (await check).problems[0]


async def test_a_worker_that_does_not_answer_is_a_problem() -> None:
    checks = IntegrityChecks(lambda _: None, timeout_s=0.01)
    check = await checks.run(lambda: Books(("a leak",), NOTHING))
    assert check.problems == ("a leak", "the worker did not answer within 0.01 s")
    checks.reported(report(1))  # too late, which changes nothing


async def test_a_worker_that_does_not_answer_is_not_asked_again() -> None:
    reads = []
    checks = IntegrityChecks(lambda _: None, timeout_s=0.01)
    await checks.run(lambda: reads.append(1) or Books((), NOTHING))  # type: ignore[func-returns-value]
    assert len(reads) == 1


async def test_who_asks_while_a_check_is_under_way_is_given_its_result() -> None:
    bench = EngineBench()
    checks = [asyncio.create_task(bench.engine.check_integrity()) for _ in range(3)]
    await asyncio.sleep(0.001)
    checks[0].cancel()  # who began it may go away
    await answer(bench, 0)
    assert [check.problems for check in await asyncio.gather(*checks[1:])] == [(), ()]
    assert len(bench.checks) == 1
    again = asyncio.create_task(bench.engine.check_integrity())
    await answer(bench, 1)
    assert (await again).problems == ()


async def test_a_check_that_nobody_waits_for_ends() -> None:
    bench = EngineBench()
    check = await checking(bench)
    check.cancel()
    await asyncio.gather(check, return_exceptions=True)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_the_workers_own_problem_is_told_in_short() -> None:
    check = compare(Books((), NOTHING), report(problem="x" * 10_000))
    assert check.problems == (f"the worker's books: {'x' * MAX_PROBLEM_CHARS}",)
