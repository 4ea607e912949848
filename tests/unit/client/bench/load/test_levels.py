import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from qllm.client.bench.errors import TargetFailed
from qllm.client.bench.load.levels import Levels
from qllm.client.bench.load.load import Load
from qllm.client.bench.load.prompts import PromptForm, Prompts
from qllm.client.bench.load.record import UNFINISHED
from qllm.client.bench.load.run import Plan, Watch, running_load
from qllm.client.bench.load.target import Ask, Stream
from qllm.client.bench.load.workload import BE, LS, Crowd, Lengths, Poisson

from tests.unit.client.bench.fake_target import FakeTarget

SHORT = Lengths(3, 2)
PROMPTS = Prompts(PromptForm.TOKENS, vocab_size=50, seed=1)


class Phases:
    """Remembers what began; stops the load when its phase begins."""

    def __init__(self, stop_at: str = "", stop: asyncio.Event | None = None) -> None:
        self.begun: list[str] = []
        self._stop_at = stop_at
        self._stop = stop or asyncio.Event()

    def begin(self, phase: str, seconds: float | None = None) -> None:
        self.begun.append(phase)
        if phase == self._stop_at:
            self._stop.set()

    def update(self, elapsed_s: float, load: Load) -> None:
        pass


class StuckTarget(FakeTarget):
    """Answers latency-sensitive requests once it is `freed`, others as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.freed = asyncio.Event()

    async def stream(self, ask: Ask) -> Stream:
        if ask.request_class is LS:
            await self.freed.wait()
        async for item in super().stream(ask):
            yield item


class EndingTarget(FakeTarget):
    async def stream(self, ask: Ask) -> Stream:
        raise TargetFailed("no more")
        yield


@asynccontextmanager
async def levels_on(
    target: FakeTarget, phases: Phases | None = None, stop: asyncio.Event | None = None, **changes: float
) -> AsyncIterator[tuple[Levels, Watch]]:
    crowd = Crowd(SHORT)
    values = {"warm_up_s": 0.02, "seconds": 0.2, "drain_s": 300.0} | changes
    workload = {LS: Poisson(100.0, SHORT, "x"), BE: crowd}
    plan = Plan(workload, PROMPTS, vocab_size=50, num_idle=0, max_in_flight=1000, **values)  # type: ignore[arg-type]
    async with running_load(target, plan, PROMPTS, phases or Phases(), stop or asyncio.Event()) as watch:
        yield Levels(plan, crowd, watch), watch


async def test_each_level_has_its_windows_with_its_number_of_clients() -> None:
    target = FakeTarget(step_s=0.01)
    async with levels_on(target) as (levels, watch):
        for num_clients in (0, 3, 1):
            windows = await levels.measure(num_clients, 2)
            assert watch.load.num_in_flight[BE] <= num_clients
            assert [window.seconds for window in windows] == pytest.approx([0.2, 0.2])
            num_be_tokens = sum(window.throughput.num_tokens[BE] for window in windows)
            assert (num_be_tokens > 0) is (num_clients > 0)
            assert all(row.is_done for window in windows for row in window.rows if row.request_class is LS)


async def test_no_request_is_counted_in_two_windows_and_none_between_them_is_left_out() -> None:
    async with levels_on(FakeTarget()) as (levels, _):
        windows = await levels.measure(0, 3)
    indices = [[row.index for row in window.rows] for window in windows]
    flat = [index for one in indices for index in one]
    assert flat == list(range(flat[0], flat[-1] + 1))
    assert all(indices)


async def test_no_prompt_is_sent_twice_however_often_the_level_changes() -> None:
    target = FakeTarget()
    async with levels_on(target, seconds=0.05) as (levels, _):
        for num_clients in (2, 1, 3, 0, 2):
            await levels.measure(num_clients, 1)
    for request_class in (LS, BE):
        prompts = [tuple(ask.index for ask in target.asks if ask.request_class is request_class)]
        assert all(len(set(one)) == len(one) > 0 for one in prompts)


async def test_a_client_that_is_too_many_has_its_answer_first_and_the_next_level_waits_for_that() -> None:
    target, phases = FakeTarget(step_s=0.1), Phases()
    async with levels_on(target, phases, seconds=0.05) as (levels, watch):
        await levels.measure(4, 1)
        await levels.measure(1, 1)
        outcomes = [record.outcome for record in watch.load.records if record.request_class is BE]
        assert outcomes.count(UNFINISHED) <= 1
        assert outcomes.count("done") >= 4
        assert target.num_closed == 0
    assert phases.begun[:4] == ["settling", "warm-up load", "window 1 of 1", "waiting for the last answers"]


async def test_more_windows_of_the_same_level_need_no_settling() -> None:
    phases = Phases()
    async with levels_on(FakeTarget(), phases, seconds=0.05) as (levels, _):
        await levels.measure(1, 1)
        await levels.measure(1, 1)
    assert phases.begun.count("settling") == 1


async def test_requests_that_never_end_count_as_unfinished_and_the_load_waits_for_them_still() -> None:
    target = StuckTarget()
    async with levels_on(target, seconds=0.1, drain_s=0.1) as (levels, watch):
        (window,) = await levels.measure(1, 1)
        ls = [row for row in window.rows if row.request_class is LS]
        assert {row.outcome for row in ls} == {UNFINISHED}
        assert all(row.total_ms >= 90 for row in ls)
        target.freed.set()
        await levels.measure(0, 1)
        first = next(record for record in watch.load.records if record.index == ls[0].index)
        assert first.outcome == "done"


async def test_stopping_keeps_the_windows_that_are_whole() -> None:
    stop = asyncio.Event()
    async with levels_on(FakeTarget(), Phases("window 3 of 9", stop), stop, seconds=0.05) as (levels, _):
        windows = await levels.measure(1, 9)
    assert 1 <= len(windows) <= 2


@pytest.mark.parametrize("phase", ["settling", "warm-up load", "window 1 of 2"])
async def test_stopping_before_the_first_window_is_over_keeps_nothing(phase: str) -> None:
    stop = asyncio.Event()
    async with levels_on(FakeTarget(), Phases(phase, stop), stop, seconds=600.0) as (levels, _):
        assert await asyncio.wait_for(levels.measure(1, 2), 300) == []


async def test_a_target_that_ends_the_load_ends_the_measuring() -> None:
    with pytest.raises(TargetFailed, match="no more"):
        async with levels_on(EndingTarget()) as (levels, _):
            await levels.measure(1, 1)


async def test_a_level_is_not_measured_while_the_last_one_is_not_over() -> None:
    async with levels_on(FakeTarget(step_s=2.0), seconds=0.05, drain_s=0.1) as (levels, _):
        await levels.measure(4, 1)
        with pytest.raises(TargetFailed, match=r"requests of the last level had no answer within --drain, 0.1 s"):
            await levels.measure(1, 1)
