"""What a request itself asks for, in times and by its deadline, reaches the generator the same way from both APIs."""

import asyncio
import math

import pytest
from qllm.settings import settings_of
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.draft import TargetsDraft
from scheduler_svc.api.validation import valid_targets
from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.sequence import RequestClass, Targets
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.wording import shown
from tests.support.service.api_service import collect, running
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import CHAT, COMPLETIONS, USER_SAYS_HI, error_of, http_app

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
NONE = Targets(None, None)
MOST_MS = {"ttft_ms": 3_600_000, "tpot_ms": 60_000}
MESSAGES: dict[str, dict[str, object]] = {COMPLETIONS: {"prompt": "hello"}, CHAT: {"messages": USER_SAYS_HI}}


@pytest.mark.parametrize("request_class", [LS, BE])
def test_who_asks_for_nothing_gets_what_the_service_promises(request_class: RequestClass) -> None:
    assert valid_targets(TargetsDraft(), request_class) == NONE


@pytest.mark.parametrize("name", MOST_MS)
def test_targets_are_kept_from_zero_to_the_most(name: str) -> None:
    most_ms = MOST_MS[name]
    for given_ms, expected_s in ((0.0, 0.0), (-0.0, 0.0), (250.0, 0.25), (most_ms, most_ms / 1e3)):
        targets = valid_targets(TargetsDraft(**{name: given_ms}), LS)
        found = {"ttft_ms": targets.ttft_s, "tpot_ms": targets.tpot_s}
        assert found.pop(name) == pytest.approx(expected_s)
        assert [*found.values()] == [None]


@pytest.mark.parametrize("name", MOST_MS)
def test_targets_beyond_are_refused_with_field_value_and_range(name: str) -> None:
    most_ms = MOST_MS[name]
    for given_ms in (-5e-324, -1.0, math.nextafter(most_ms, math.inf), math.inf, -math.inf, math.nan):
        with pytest.raises(InvalidRequest) as refused:
            valid_targets(TargetsDraft(**{name: given_ms}), LS)
        allowed = f"a number in [0, {most_ms}], 0 for as soon as possible"
        assert str(refused.value) == f"targets.{name}: got {shown(given_ms)}, allowed is {allowed}"


def test_a_request_may_ask_for_what_an_operator_may_promise() -> None:
    promises = {one.key: one.setting.high for one in settings_of(Limits)}
    assert {name: promises[f"ls_{name}"] for name in MOST_MS} == MOST_MS


@pytest.mark.parametrize("name", MOST_MS)
def test_a_best_effort_request_may_ask_for_none(name: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"targets.{name}: got 5.0, allowed is nothing: a best-effort request"):
        valid_targets(TargetsDraft(**{name: 5.0}), BE)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, NONE),
        ({"ttft_ms": 2000, "tpot_ms": 0}, Targets(2.0, 0.0)),
        ({"ttft_ms": 0}, Targets(0.0, None)),
        ({"tpot_ms": 250}, Targets(None, 0.25)),
    ],
)
async def test_targets_reach_the_generator(given: dict[str, float], expected: Targets) -> None:
    generator = FakeGenerator()
    async with running(generator) as service:
        targets = pb.LatencyTargets(**given) if given else None
        await collect(service, pb.GenerateRequest(text="hello", stop=pb.StopConditions(max_tokens=2), targets=targets))
    async with http_app(generator) as service:
        for path, body in MESSAGES.items():
            await service.answer(path, **body, **given, max_tokens=2)
    assert [request.targets for request in generator.submitted] == [expected] * 3


async def test_empty_targets_are_allowed_in_a_best_effort_request() -> None:
    generator = FakeGenerator()
    async with running(generator) as service:
        request = pb.GenerateRequest(
            text="hello", request_class=pb.REQUEST_CLASS_BEST_EFFORT, targets=pb.LatencyTargets()
        )
        await collect(service, request)
    async with http_app(generator) as service:
        await service.answer(COMPLETIONS, prompt="hello", service_tier="flex", ttft_ms=None, tpot_ms=None)
    assert [request.targets for request in generator.submitted] == [NONE, NONE]


@pytest.mark.parametrize("path", MESSAGES)
@pytest.mark.parametrize("name", MOST_MS)
@pytest.mark.parametrize("best_effort", [{"service_tier": "flex"}, {"priority": 1}])
async def test_http_says_by_its_own_names_what_best_effort_work_may_not_ask_for(
    path: str, name: str, best_effort: dict[str, object]
) -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(path, **MESSAGES[path], **best_effort, **{name: 5})
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == name
    assert error["message"] == f"{name}: got 5.0, allowed is nothing: a best-effort request is promised no time"


async def test_a_calls_deadline_is_the_requests_on_the_clock_of_the_event_loop() -> None:
    generator, loop = FakeGenerator(), asyncio.get_running_loop()
    async with running(generator) as service:
        before_s = loop.time()
        await service.inference.Generate(pb.GenerateRequest(text="hello"), timeout=300).read()
        after_s = loop.time()
        await service.inference.Generate(pb.GenerateRequest(text="hello")).read()
    first, second = generator.submitted
    assert first.deadline_s is not None
    assert before_s + 299 < first.deadline_s < after_s + 301
    assert second.deadline_s is None


async def test_a_request_over_http_has_no_deadline() -> None:
    async with http_app(FakeGenerator()) as service:
        await service.answer(COMPLETIONS, prompt="hello")
        assert service.generator.submitted[0].deadline_s is None
