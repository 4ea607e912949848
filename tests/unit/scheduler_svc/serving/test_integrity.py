"""A check on demand compares the core's books with the worker's as of the same moment, and always comes to an end."""

import asyncio

from scheduler_svc.core.state.results import IntegrityReport
from scheduler_svc.generation import IntegrityCheck
from scheduler_svc.serving.integrity import MAX_PROBLEM_CHARS, Books, IntegrityChecks, compare
from tests.support.service.engine_bench import EngineBench


def report(check_id: int = 1, *, num_held_blocks: int = 0, problem: str = "") -> IntegrityReport:
    return IntegrityReport(check_id, problem, 3, num_held_blocks, 0, 0, 0, 0, 0)


async def checking(bench: EngineBench) -> asyncio.Task[IntegrityCheck]:
    """Begins a check, up to where it waits for the worker."""
    check = asyncio.create_task(bench.engine.check_integrity())
    await asyncio.sleep(0)
    return check


async def test_books_that_agree_are_told_with_what_the_worker_holds() -> None:
    bench = EngineBench()
    bench.submit("a", 3)
    check = await checking(bench)
    [asked] = bench.checks
    bench.engine.integrity_reported(report(asked.check_id, num_held_blocks=1))
    assert await check == IntegrityCheck((), 1, 3)


async def test_what_was_decided_before_is_on_its_way_before_the_books_are_read() -> None:
    bench = EngineBench()
    stream = bench.submit("a", 3)
    bench.answer()
    stream.close()
    check = await checking(bench)
    bench.engine.integrity_reported(report(bench.checks[0].check_id, num_held_blocks=0))
    assert (await check).problems == ()


async def test_books_that_differ_are_compared_anew_and_then_are_a_problem() -> None:
    bench = EngineBench()
    check = await checking(bench)
    for number in range(3):
        assert not check.done()
        bench.engine.integrity_reported(report(bench.checks[number].check_id, num_held_blocks=7))
        await asyncio.sleep(0.001)
    [problem] = (await check).problems
    assert problem == "the scheduler's books say that 0 blocks are held, the worker's that 7 are"


async def test_books_that_differed_while_an_end_was_on_its_way_agree() -> None:
    bench = EngineBench()
    check = await checking(bench)
    bench.engine.integrity_reported(report(bench.checks[0].check_id, num_held_blocks=7))
    await asyncio.sleep(0.001)
    bench.engine.integrity_reported(report(bench.checks[1].check_id))
    assert (await check).problems == ()


async def test_a_core_that_contradicts_itself_is_a_problem_and_goes_on() -> None:
    bench = EngineBench()
    assert bench.engine._scheduler is not None
    bench.engine._scheduler.memory.pool.allocate(2)  # for nobody
    check = await checking(bench)
    while not check.done():
        bench.engine.integrity_reported(report(bench.checks[-1].check_id, num_held_blocks=2))
        await asyncio.sleep(0)
    [problem] = (await check).problems
    assert problem.startswith("the scheduler's books: the tables do not hold exactly the blocks")
    assert bench.engine.worker_epoch == 5


async def test_without_a_worker_a_check_says_so() -> None:
    bench = EngineBench()
    bench.engine.worker_lost("killed")
    assert (await bench.engine.check_integrity()).problems == ("no worker is connected, so there is nothing to check",)


async def test_a_worker_that_goes_away_ends_the_check() -> None:
    bench = EngineBench()
    check = await checking(bench)
    bench.engine.worker_lost("killed")
    assert "no worker is connected" in (await check).problems[0]


async def test_a_worker_that_does_not_answer_is_a_problem() -> None:
    checks = IntegrityChecks(lambda _: None, timeout_s=0.01)
    check = await checks.run(lambda: Books(("a leak",), 5))
    assert check.problems == ("a leak", "the worker did not answer within 0.01 s")
    checks.reported(report(1))  # too late, which changes nothing


def test_the_workers_own_problem_is_told_in_short() -> None:
    check = compare(Books((), 2), report(num_held_blocks=2, problem="x" * 10_000))
    assert check.problems == (f"the worker's books: {'x' * MAX_PROBLEM_CHARS}",)
