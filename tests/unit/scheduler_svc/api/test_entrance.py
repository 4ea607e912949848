"""A service that is told to stop refuses what is new, finishes what runs, and knows when that is over."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from qllm.v1 import admin_pb2, admin_pb2_grpc, inference_pb2_grpc
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.entrance import Entrance
from scheduler_svc.api.grpc.admin import Operation
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.errors import Refusal, ServiceStopping
from scheduler_svc.generation import WorkerState
from tests.support.service.api_service import SETTINGS, api_server, rest, running, text_request
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import COMPLETIONS, error_of, http_app

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_gate_is_empty_once_the_last_one_has_left() -> None:
    gate = Entrance()
    await gate.empty()
    for one in ("a", "b"):
        gate.enter(one)
    waiting = asyncio.create_task(gate.empty())
    for one in ("a", "a"):
        gate.leave(one)
        await asyncio.sleep(0)
        assert not waiting.done()
    assert gate.num_inside == 1
    gate.leave("b")
    await waiting


def test_a_closed_gate_says_when_to_come_back() -> None:
    gate = Entrance()
    gate.require_open()
    gate.close()
    with pytest.raises(ServiceStopping) as caught:
        gate.require_open()
    assert caught.value.retry_after_s is not None


async def test_a_draining_server_refuses_new_requests_with_a_time_to_come_back_while_running_ones_end() -> None:
    generator = FakeGenerator(hold_after=1)
    async with running(generator) as service:
        call = service.inference.Generate(pb.GenerateRequest(request_id="last", text="hello"))
        await call.read()
        texts: TextGenerator = service.server._backend.texts
        texts.entrance.close()
        service.server.drain()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rest(service.inference.Generate(text_request("hello")))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        metadata = dict(caught.value.trailing_metadata() or ())
        retry = error_details_pb2.RetryInfo()
        assert status_pb2.Status.FromString(metadata["grpc-status-details-bin"]).details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() >= 2000
        assert generator.refused[-1][1] is Refusal.STOPPING
        assert texts.entrance.num_inside == 1
        generator.abort("last")
        assert (await rest(call))[-1].HasField("finish")
        await texts.entrance.empty()


async def test_health_says_so_for_every_service_while_the_process_lives() -> None:
    async with running(FakeGenerator()) as service:
        service.server.drain()
        stub = health_pb2_grpc.HealthStub(service.channel)
        for name, status in {
            "": NOT_SERVING,
            "qllm.v1.InferenceService": NOT_SERVING,
            "ready": NOT_SERVING,
            "live": SERVING,
        }.items():
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == status


@pytest.mark.parametrize("state", WorkerState)
async def test_a_service_is_live_whatever_its_worker_does_and_ready_only_with_one(state: WorkerState) -> None:
    generator = FakeGenerator(worker_state=state)
    is_ready = state is WorkerState.READY
    async with running(generator) as service, http_app(generator) as http:
        stub = health_pb2_grpc.HealthStub(service.channel)
        for name, status in {"live": SERVING, "ready": SERVING if is_ready else NOT_SERVING}.items():
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == status
        assert (await http.http.get("/health/live")).status_code == 200
        assert (await http.http.get("/health/ready")).status_code == (200 if is_ready else 503)


async def test_http_refuses_while_the_service_stops_and_says_when_to_come_back() -> None:
    async with http_app(FakeGenerator()) as service:
        service.texts.entrance.close()
        response = await service.post(COMPLETIONS, prompt="hello")
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 2
        assert error_of(response)["message"] == "the service is stopping"
        assert (await service.http.get("/health")).status_code == 503
        assert (await service.http.get("/health/live")).status_code == 200


class Stopper:
    """Stands for the service that is told to stop."""

    def __init__(self) -> None:
        self.graces_s: list[float | None] = []

    def __call__(self, grace_s: float | None) -> float:
        self.graces_s.append(grace_s)
        return 2.0 if grace_s is None else grace_s


async def test_drain_stops_the_service_and_answers_what_still_runs() -> None:
    stopper, generator = Stopper(), FakeGenerator(hold_after=1)
    texts = TextGenerator(generator)
    server = api_server(generator, texts, operation=Operation(SETTINGS, stopper))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest(text="hello"))
        await call.read()
        assert await admin.Drain(admin_pb2.DrainRequest()) == admin_pb2.DrainResponse(grace_ms=2000, num_requests=1)
        call.cancel()
        answer = await admin.Drain(admin_pb2.DrainRequest(grace_ms=0))
        assert answer.grace_ms == 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await admin.Drain(admin_pb2.DrainRequest(grace_ms=3_600_001))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "grace_ms: got 3600001, allowed is 0 to 3600000"
    await server.stop(grace_s=0)
    texts.close()
    assert stopper.graces_s == [None, 0.0]


async def test_a_server_without_a_service_to_stop_says_so() -> None:
    async with running(FakeGenerator()) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await admin_pb2_grpc.AdminServiceStub(service.channel).Drain(admin_pb2.DrainRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
