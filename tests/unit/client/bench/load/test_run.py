import asyncio

import pytest
from qllm.client.bench.errors import TargetFailed
from qllm.client.bench.load.load import Load
from qllm.client.bench.load.prompts import PromptForm, Prompts
from qllm.client.bench.load.record import UNFINISHED
from qllm.client.bench.load.run import Plan, Run, run_plan
from qllm.client.bench.load.workload import BE, LS, ClosedLoop, Lengths, Poisson, Workload

from tests.unit.client.bench.fake_target import FakeTarget

SHORT = Lengths(3, 2)


class SlowToCount(FakeTarget):
    async def counters(self) -> dict[str, int]:
        await asyncio.sleep(0.1)
        return await super().counters()


class Phases:
    """Remembers what began; stops the run when its phase begins."""

    def __init__(self, stop_at: str = "", stop: asyncio.Event | None = None) -> None:
        self.begun: list[str] = []
        self._stop_at = stop_at
        self._stop = stop

    def begin(self, phase: str, seconds: float | None = None) -> None:
        self.begun.append(phase)

    def update(self, elapsed_s: float, load: Load) -> None:
        if self._stop is not None and self.begun[-1] == self._stop_at:
            self._stop.set()


def plan(workload: Workload | None = None, **changes: float) -> Plan:
    values = {"num_idle": 4, "warm_up_s": 0.05, "seconds": 0.3, "drain_s": 300.0, "max_in_flight": 100} | changes
    return Plan(
        workload=workload or {LS: Poisson(50.0, SHORT, "x"), BE: ClosedLoop(2, 0.0, SHORT)},
        prompts=Prompts(PromptForm.TOKENS, vocab_size=0, seed=1),
        vocab_size=None,
        **values,  # type: ignore[arg-type]
    )


async def run(target: FakeTarget, made: Plan, phases: Phases | None = None, stop: asyncio.Event | None = None) -> Run:
    result = await run_plan(target, made, phases or Phases(), stop or asyncio.Event())
    assert result is not None
    return result


async def test_the_idle_baseline_comes_first_and_alone() -> None:
    target, phases = FakeTarget(), Phases()
    result = await run(target, plan(), phases)
    assert phases.begun == ["warming up", "idle baseline", "warm-up load", "measuring", "waiting for the last answers"]
    assert len(result.measurement.idle) == 4
    assert {row.request_class for row in result.measurement.idle} == {LS}
    idle_asks = target.asks[6:10]  # after three warm-ups of each class
    assert {ask.request_class for ask in idle_asks} == {LS}


async def test_the_windows_requests_are_followed_to_their_ends_while_the_load_goes_on() -> None:
    target = FakeTarget(step_s=0.1)
    result = await run(target, plan({LS: Poisson(30.0, SHORT, "x"), BE: ClosedLoop(2, 0.0, SHORT)}, seconds=1.0))
    rows = result.measurement.rows
    assert {row.request_class for row in rows} == {LS, BE}
    assert all(row.is_done for row in rows)
    assert all(0 <= row.at_ms < result.measurement.seconds * 1e3 for row in rows)
    num_asked_before = 10 + len(rows)
    assert len(target.asks) > num_asked_before  # those of the warm-up and of the drain
    assert target.num_live == 0


async def test_the_window_holds_the_same_requests_however_slowly_the_server_answers() -> None:
    quick, slow = FakeTarget(), SlowToCount()
    workload = {LS: Poisson(100.0, SHORT, "x")}
    measured = [(await run(target, plan(workload, num_idle=0))).measurement for target in (quick, slow)]
    assert [row.index for row in measured[0].rows] == [row.index for row in measured[1].rows]
    assert [one.seconds for one in measured] == pytest.approx([0.3, 0.3])


async def test_a_drain_that_is_over_leaves_requests_unfinished() -> None:
    target = FakeTarget(step_s=0.4, num_slots=2)
    result = await run(target, plan({LS: Poisson(50.0, Lengths(3, 1), "x")}, num_idle=0, drain_s=0.1))
    waiting = [row for row in result.measurement.rows if row.outcome == UNFINISHED]
    assert waiting
    assert all(row.ttft_ms is None and row.total_ms >= 100 for row in waiting)


async def test_token_ids_stay_below_the_servers_vocabulary_unless_another_is_given() -> None:
    target = FakeTarget()
    await run(target, plan())
    assert max(token_id for ask in target.asks for token_id in ask.prompt if isinstance(token_id, int)) < 50


async def test_counters_are_told_by_how_much_they_grew() -> None:
    assert (await run(FakeTarget(), plan())).measurement.counters == {"num_commands": 5}


async def test_a_class_may_be_left_out() -> None:
    phases = Phases()
    result = await run(FakeTarget(), plan({BE: ClosedLoop(1, 0.0, SHORT)}, seconds=1.0), phases)
    assert "idle baseline" not in phases.begun
    assert {row.request_class for row in result.measurement.rows} == {BE}


async def test_stopping_in_the_window_keeps_what_was_measured() -> None:
    stop = asyncio.Event()
    result = await run(FakeTarget(), plan(seconds=600.0), Phases("measuring", stop), stop)
    assert result.is_interrupted
    assert result.measurement.seconds < 60


@pytest.mark.parametrize("phase", ["warming up", "warm-up load"])
async def test_stopping_before_the_window_measures_nothing(phase: str) -> None:
    stop = asyncio.Event()
    target = FakeTarget(step_s=0.05)
    running = asyncio.create_task(run_plan(target, plan(warm_up_s=600.0), Phases(phase, stop), stop))
    if phase == "warming up":
        await asyncio.sleep(0.1)
        stop.set()
    assert await asyncio.wait_for(running, 300) is None
    assert target.num_live == 0


async def test_a_server_that_fails_when_idle_is_not_measured() -> None:
    with pytest.raises(TargetFailed, match="HTTP 500: it was asked to"):
        await run_plan(FakeTarget(failure="HTTP 500"), plan(), Phases(), asyncio.Event())
