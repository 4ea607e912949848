"""Services answer by the names that they had first as by those of today, with the same keys, errors and limits."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from qllm.v1 import admin_pb2, admin_pb2_grpc, batches_pb2, batches_pb2_grpc, inference_pb2_grpc
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.grpc.former_names import FORMER_SERVICE_NAMES, current_method
from scheduler_svc.api.grpc.server import SERVICE_NAMES
from scheduler_svc.core.state.sequence import RequestClass
from tests.support.jobs.memory_jobs import MemoryJobs
from tests.support.security.api_keys import bearer, entry, gate_of
from tests.support.service.api_service import Service, running
from tests.support.service.fakes import FakeGenerator

REQUEST = pb.GenerateRequest(text="hello", request_class=pb.BEST_EFFORT, stop=pb.StopConditions(max_tokens=1))


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with running(FakeGenerator(), MemoryJobs()) as service:
        yield service


def test_each_service_has_its_former_name() -> None:
    assert set(FORMER_SERVICE_NAMES) == {"qllm.v1.Inference", "qllm.v1.Admin", "qllm.v1.Batches"}
    assert set(SERVICE_NAMES) == {*FORMER_SERVICE_NAMES, *(f"{name}Service" for name in FORMER_SERVICE_NAMES)}
    assert current_method("/qllm.v1.Inference/Generate") == "/qllm.v1.InferenceService/Generate"
    assert current_method("/grpc.health.v1.Health/Check") == "/grpc.health.v1.Health/Check"


async def test_stubs_of_the_former_names_are_answered(service: Service) -> None:
    inference = inference_pb2_grpc.InferenceStub(service.channel)
    messages = [message async for message in inference.Generate(REQUEST, timeout=60)]
    assert messages[-1].HasField("finish")
    assert not (await inference.Abort(pb.AbortRequest(request_id="nobody's"))).aborted
    assert (await admin_pb2_grpc.AdminStub(service.channel).GetServerInfo(admin_pb2.GetServerInfoRequest())).version
    listed = await batches_pb2_grpc.BatchesStub(service.channel).ListBatches(batches_pb2.ListBatchesRequest())
    assert [*listed.batches] == []


async def test_the_former_names_of_classes_mean_the_same(service: Service) -> None:
    assert (pb.LATENCY_SENSITIVE, pb.BEST_EFFORT) == (1, 2)
    assert (pb.REQUEST_CLASS_LATENCY_SENSITIVE, pb.REQUEST_CLASS_BEST_EFFORT) == (1, 2)
    for name in ("BEST_EFFORT", "REQUEST_CLASS_BEST_EFFORT"):  # as grpcurl sends it
        request = json_format.ParseDict({"text": "hello", "requestClass": name}, pb.GenerateRequest())
        request.stop.max_tokens = 1
        call = inference_pb2_grpc.InferenceServiceStub(service.channel).Generate(request, timeout=60)
        assert [one async for one in call]
    assert [one.request_class for one in service.generator.submitted] == [RequestClass.BEST_EFFORT] * 2


async def test_health_knows_the_former_names(service: Service) -> None:
    health = health_pb2_grpc.HealthStub(service.channel)
    for name in SERVICE_NAMES:
        status = (await health.Check(health_pb2.HealthCheckRequest(service=name))).status
        assert status == health_pb2.HealthCheckResponse.SERVING


async def test_what_is_invalid_is_refused_by_the_former_name_too(service: Service) -> None:
    call = inference_pb2_grpc.InferenceStub(service.channel).Generate(pb.GenerateRequest(), timeout=60)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details() == "prompt: got nothing, allowed is one of text, chat, token_ids"


@pytest.mark.parametrize("service_name", SERVICE_NAMES)
async def test_a_method_that_is_not_there_is_unknown_by_either_name(service: Service, service_name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.channel.unary_unary(f"/{service_name}/Nothing")(b"", timeout=60)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_former_names_need_the_same_keys(tmp_path: Path) -> None:
    gate = gate_of(tmp_path / "keys.toml", entry("a", "key-a"), entry("ops", "key-ops", ["admin"]))
    methods = {"Inference/Generate": "key-a", "Batches/ListBatches": "key-a", "Admin/GetLoads": "key-ops"}
    async with running(FakeGenerator(), MemoryJobs(), gate=gate) as service:
        for method, key in methods.items():
            for metadata in ((), bearer("nobody's")):
                call = service.channel.stream_stream(f"/qllm.v1.{method}")(metadata=metadata, timeout=60)
                await call.done_writing()
                assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
            other = "key-ops" if key == "key-a" else "key-a"
            for given, code in ((key, grpc.StatusCode.INVALID_ARGUMENT), (other, grpc.StatusCode.PERMISSION_DENIED)):
                call = service.channel.stream_stream(f"/qllm.v1.{method}")(metadata=bearer(given), timeout=60)
                await call.done_writing()
                assert await call.code() is code  # the first got as far as the message, which is missing
