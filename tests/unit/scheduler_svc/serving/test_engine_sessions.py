"""Programs are the engine's: they outlive the worker, and with it the core."""

import pytest

from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.sessions import Programs, SessionLimits, ToolTimes
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, SessionTurn, StopConditions
from scheduler_svc.generation import GenerationRequest
from scheduler_svc.serving import engine as engine_module
from scheduler_svc.serving.engine import Engine
from scheduler_svc.serving.engine_settings import EngineSettings
from tests.support.service.engine_bench import TIMING, EngineBench
from tests.support.service.fakes import served_model
from tests.unit.scheduler_svc.core.sessions.turns import turn


def _fail(error: BaseException) -> None:
    raise error


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> list[Scheduler]:
    """The cores that engines make, in their order."""
    made: list[Scheduler] = []

    class Noted(Scheduler):
        def __init__(self, *args: object, **options: bool) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(engine_module, "Scheduler", Noted)
    return made


async def test_every_core_has_the_same_programs_and_what_was_known_of_tools(cores: list[Scheduler]) -> None:
    tool_times = ToolTimes()
    engine = Engine(EngineSettings(), lambda _: None, _fail, tool_times=tool_times)
    for epoch in (1, 2):
        engine.worker_joined(epoch, served_model(), [TIMING], 1)
    assert cores[0].sessions is cores[1].sessions
    assert cores[0].sessions.experience.tool_times is tool_times


async def test_nothing_is_kept_of_a_worker_that_is_gone_and_programs_keep_their_place(cores: list[Scheduler]) -> None:
    settings = EngineSettings(sessions=SessionLimits(session_ttl_s=60.0))
    engine = Engine(settings, lambda _: None, _fail)
    engine.worker_joined(1, served_model(), [TIMING], 1)
    programs: Programs = cores[0].sessions
    first, second = turn("a", 1.0), turn("a", 5.0)
    programs.arrives(first, 1.0)
    assert programs.ends(first, 2.0, 1.0)
    engine.worker_lost("killed", died=True)
    assert programs.num_kept == 0
    programs.arrives(second, 5.0)
    assert second.order_s == 1.0


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_tool_that_an_answer_calls_is_learned_whether_the_answer_is_over_by_then(
    cores: list[Scheduler], is_over: bool
) -> None:
    bench = EngineBench(sessions=SessionLimits(session_min_records=1))  # type: ignore[arg-type]
    stream = bench.engine.submit(a_turn("first"))
    if is_over:
        bench.work()
    stream.calls("search")
    bench.work()
    bench.engine.submit(a_turn("second"))
    assert [tool for tool, _ in cores[0].sessions.experience.tool_times.snapshot()] == [None, "search"]


def a_turn(name: str) -> GenerationRequest:
    request_class, stop = RequestClass.LATENCY_SENSITIVE, StopConditions(3)
    return GenerationRequest(name, request_class, (3, 4, 5, 6), SamplingParams(), stop, session=SessionTurn("program"))
