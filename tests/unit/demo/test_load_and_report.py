import asyncio
import math
from collections.abc import AsyncIterator

import grpc
import pytest
from qllm.v1 import admin_pb2_grpc, inference_pb2_grpc

from client import AsyncClient, FinishReason, GenerateOptions, GenerationResult, Prompt, RequestClass, Usage
from demo.load import BE, LS, Foreground, Load, Watcher, poisson_times, run_window
from demo.prompts import DemoWorkload
from demo.report import compare
from demo.spread import Spread
from tests.unit.client.fake_service import FakeService


class NumberedPrompts:
    def prompt(self, request_class: RequestClass, index: int) -> Prompt:
        return [index]

    def options(self, request_class: RequestClass) -> GenerateOptions:
        return GenerateOptions(max_tokens=5)


class EndlessBestEffort(NumberedPrompts):
    def options(self, request_class: RequestClass) -> GenerateOptions:
        return GenerateOptions(max_tokens=5 if request_class is LS else 1_000_000)


class FailingPrompts(NumberedPrompts):
    def prompt(self, request_class: RequestClass, index: int) -> Prompt:
        return "fail INTERNAL" if request_class is LS else [index]


def answer(*token_ids: int) -> GenerationResult:
    usage = Usage(1, len(token_ids), 0.0, 0.0, 0.0, 0)
    return GenerationResult("id", "", token_ids, (), FinishReason.LENGTH, None, usage, 0.1, 0.2)


@pytest.fixture
async def load(service: FakeService) -> AsyncIterator[Load]:
    async with AsyncClient(service.address) as client:
        yield Load(client, NumberedPrompts(), Watcher())


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    service = FakeService()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    inference_pb2_grpc.add_InferenceServicer_to_server(service, server)
    admin_pb2_grpc.add_AdminServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service
    await server.stop(None)


async def test_best_effort_clients_keep_their_own_prompts_until_the_last_question_is_answered(
    load: Load,
) -> None:
    window = await run_window(load, Foreground(0.4, rate_per_s=20.0, seed=1), num_be_clients=3, lead_s=0.05)
    assert sorted(window.answers[LS]) == list(range(len(poisson_times(20.0, 0.4, 1))))
    assert len(window.answers[BE]) > 6
    assert all(result.token_ids == tuple(range(index, index + 5)) for index, result in window.answers[BE].items())
    assert window.seconds >= 0.4
    assert window.num_tokens[LS] == 5 * len(window.answers[LS])
    assert 0 < window.num_finished_tokens <= 5 * (len(window.answers[LS]) + len(window.answers[BE]))


async def test_best_effort_requests_are_cancelled_at_the_end(load: Load, service: FakeService) -> None:
    load.workload = EndlessBestEffort()
    window = await run_window(load, Foreground(0.1, num_clients=1), num_be_clients=3, lead_s=0.05)
    assert window.answers[BE] == {}
    async with asyncio.timeout(60):
        for _ in range(3):
            await service.cancelled.acquire()


async def test_closed_loop_foreground_never_has_more_than_its_clients(load: Load, service: FakeService) -> None:
    await run_window(load, Foreground(0.3, num_clients=2), num_be_clients=0, lead_s=0.0)
    assert service.max_live == 2


async def test_a_failing_request_ends_the_load(load: Load) -> None:
    load.workload = FailingPrompts()
    with pytest.raises(ExceptionGroup):
        await run_window(load, Foreground(30.0, num_clients=1), num_be_clients=2, lead_s=0.0)


def test_arrival_times_are_fixed_by_the_seed_and_have_the_rate() -> None:
    times_s = poisson_times(5.0, 1000.0, seed=3)
    assert times_s == poisson_times(5.0, 1000.0, seed=3)
    assert times_s == sorted(times_s)
    assert times_s[-1] < 1000.0
    assert len(times_s) == pytest.approx(5000, rel=0.05)


def test_demo_prompts_are_fixed_by_seed_class_and_number() -> None:
    def make() -> DemoWorkload:
        return DemoWorkload(seed=1, be_prompt_chars=500, be_max_tokens=4, ls_max_tokens=2)

    prompts = [make().prompt(BE, index) for index in range(20)]
    assert prompts == [make().prompt(BE, index) for index in range(20)]
    assert all(isinstance(prompt, str) and 250 < len(prompt) <= 500 for prompt in prompts)
    assert len(set(map(str, prompts))) == 20
    assert make().options(BE)["max_tokens"] == 4


def test_spread_of_times() -> None:
    spread = Spread.of([time_ms / 1e3 for time_ms in range(1, 101)])
    assert (spread.count, spread.mean_ms, spread.p50_ms, spread.p99_ms) == pytest.approx((100, 50.5, 50.0, 99.0))
    assert Spread.of([0.003]).p99_ms == pytest.approx(3.0)
    assert math.isnan(Spread.of([]).mean_ms)


def test_comparison_names_the_prompts_whose_tokens_differ() -> None:
    same = compare("a against b", {0: answer(1), 1: answer(2)}, {1: answer(2), 2: answer(3)})
    assert (str(same), same.is_proof) == ("a against b: all 1 identical", True)
    other = compare("a against b", {0: answer(1), 1: answer(2)}, {0: answer(1), 1: answer(9)})
    assert (str(other), other.is_proof) == ("a against b: 1 of 2 DIFFER, prompts [1]", False)


def test_comparing_nothing_proves_nothing() -> None:
    assert not compare("a against b", {0: answer(1)}, {1: answer(1)}).is_proof
