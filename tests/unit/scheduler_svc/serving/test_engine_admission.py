"""The engine takes in what it can serve in time, and what it refuses leaves nothing behind."""

import asyncio

import pytest

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import DeadlineTooSoon, TokensSpent, WaitTooLong
from tests.support.service.engine_bench import EngineBench

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT


async def test_latency_sensitive_requests_alone_are_refused_once_their_wait_is_too_long() -> None:
    bench = EngineBench(ls_max_wait_s=0.5)
    bench.submit("first", 400)
    while bench.steps:  # so that it is known how long answers are
        bench.answer()
    refused: list[WaitTooLong] = []
    for index in range(1000):
        try:
            bench.submit(f"ls {index}", 400)
        except WaitTooLong as error:
            refused.append(error)
    assert 0 < len(refused) < 1000
    assert all(error.retry_after_s is not None for error in refused)
    for index in range(200):
        bench.submit(f"be {index}", 400, BE)


async def test_a_wait_may_be_as_long_as_it_likes_without_a_limit() -> None:
    bench = EngineBench(ls_max_wait_s=0)
    for index in range(1000):
        bench.submit(f"ls {index}", 400)


async def test_each_class_has_a_budget_of_tokens_which_ends_give_back() -> None:
    bench = EngineBench(max_ls_tokens=100, max_be_tokens=50)
    first = bench.submit("a", 90)
    with pytest.raises(TokensSpent, match="latency-sensitive"):
        bench.submit("b", 90)
    bench.submit("c", 40, BE)
    with pytest.raises(TokensSpent, match="best-effort"):
        bench.submit("d", 40, BE)
    first.close()
    bench.submit("b", 90)


async def test_a_deadline_that_has_passed_is_refused_at_once() -> None:
    bench = EngineBench()
    with pytest.raises(DeadlineTooSoon):
        bench.submit("a", 9, deadline_s=asyncio.get_running_loop().time() - 1)
    bench.submit("a", 9, deadline_s=asyncio.get_running_loop().time() + 60)
