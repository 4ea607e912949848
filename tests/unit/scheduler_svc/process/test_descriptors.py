"""Descriptors: as many as allowed, a reserve for the worker, and few words when they run out."""

import asyncio
import errno
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from scheduler_svc.process.descriptors import (
    MOST_CONNECTIONS,
    log_failed_accepts_rarely,
    max_connections,
    raise_descriptor_limit,
)
from scheduler_svc.process.rarely import Rarely


@pytest.fixture
def _limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_limits")
def test_soft_limit_is_raised_to_the_hard_one_and_never_lowered() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    limit = raise_descriptor_limit()
    assert limit == min(hard, 65_536)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limit, hard)
    assert raise_descriptor_limit() == limit


@pytest.mark.parametrize("limit", [1024, 4096, 20_000])
@pytest.mark.parametrize("num_front_ends", [1, 2])
def test_front_ends_together_leave_a_reserve(limit: int, num_front_ends: int) -> None:
    assert limit - num_front_ends * max_connections(limit, num_front_ends) >= 256


def test_connections_have_a_least_and_a_most_number() -> None:
    assert max_connections(64, 2) == 16
    assert max_connections(1 << 30, 2) == MOST_CONNECTIONS


def test_something_frequent_is_said_once_an_interval() -> None:
    now_s = 100.0
    rarely = Rarely(60, lambda: now_s)
    assert [rarely.is_due() for _ in range(3)] == [True, False, False]
    now_s = 159.9
    assert not rarely.is_due()
    now_s = 160.0
    assert [rarely.is_due() for _ in range(2)] == [True, False]


async def test_failed_accepts_are_one_line_and_all_else_is_reported_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    handle = log_failed_accepts_rarely()
    failed: dict[str, Any] = {
        "message": "socket.accept() out of system resource",
        "exception": OSError(errno.EMFILE, "Too many open files"),
    }
    for _ in range(1000):
        handle(loop, failed)
    [record] = caplog.records
    assert "Too many open files" in record.getMessage()
    assert record.exc_info is None
    handle(loop, {"message": "something else"})
    assert caplog.records[1].getMessage() == "something else"
