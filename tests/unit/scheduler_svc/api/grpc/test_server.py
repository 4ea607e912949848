"""Admin, health, reflection, and how the server starts and stops."""

import asyncio
from dataclasses import asdict

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from qllm.v1 import admin_pb2, admin_pb2_grpc
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.grpc.errors import ErrorInterceptor
from scheduler_svc.api.grpc.health import HealthServicer, TooManyWatches
from scheduler_svc.api.grpc.server import SERVICE_NAMES
from scheduler_svc.api.listening import Listening
from scheduler_svc.core.cache.load import MemoryLoad
from scheduler_svc.generation import IntegrityCheck, WorkerState
from tests.support.service.api_service import Service, api_server, collect, rest, running, text_request
from tests.support.service.fakes import MEMORY, FakeGenerator

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ["", *SERVICE_NAMES, "ready"]


def health(service: Service) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(service.channel)


async def status(service: Service, name: str = "") -> int:
    return (await health(service).Check(health_pb2.HealthCheckRequest(service=name))).status


@pytest.mark.parametrize("name", NAMES)
async def test_health_is_serving_only_while_the_worker_is_ready(name: str) -> None:
    generator = FakeGenerator()
    async with running(generator) as service:
        assert await status(service, name) == SERVING
        for state in (WorkerState.HUNG, WorkerState.ABSENT):
            generator.worker_state = state
            assert await status(service, name) == NOT_SERVING
        generator.worker_state = WorkerState.READY
        assert await status(service, name) == SERVING


async def test_health_of_an_unknown_service_is_not_found() -> None:
    async with running(FakeGenerator()) as service:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await status(service, "nobody")
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        watch = health(service).Watch(health_pb2.HealthCheckRequest(service="nobody"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


async def test_health_lists_all_services() -> None:
    async with running(FakeGenerator()) as service:
        listed = await health(service).List(health_pb2.HealthListRequest())  # type: ignore[attr-defined]
        assert {name: one.status for name, one in listed.statuses.items()} == dict.fromkeys([*NAMES, "live"], SERVING)


async def test_health_watch_follows_the_worker_and_ends_with_the_service() -> None:
    generator = FakeGenerator()
    async with running(generator) as service:
        watch = health(service).Watch(health_pb2.HealthCheckRequest(), timeout=300)
        assert (await watch.read()).status == SERVING
        generator.change_state(WorkerState.HUNG)
        assert (await watch.read()).status == NOT_SERVING
        generator.change_state(WorkerState.READY)
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(service.server.stop(grace_s=300))
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        async with asyncio.timeout(300):
            await stopping


async def test_watches_are_told_of_changes_and_ask_for_nothing_meanwhile() -> None:
    generator = FakeGenerator()
    servicer = HealthServicer(generator, ())
    watch = servicer.Watch(health_pb2.HealthCheckRequest(), context=None)
    assert (await anext(watch)).status == SERVING
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert loop._scheduled == []  # no timer
    generator.change_state(WorkerState.HUNG)
    assert (await waiting).status == NOT_SERVING
    await watch.aclose()


async def test_a_watch_too_many_is_refused_until_one_ends() -> None:
    servicer = HealthServicer(FakeGenerator(), (), max_watches=2)
    watches = [servicer.Watch(health_pb2.HealthCheckRequest(), context=None) for _ in range(3)]
    for watch in watches[:2]:
        await anext(watch)
    with pytest.raises(TooManyWatches, match="allowed are 2"):
        await anext(watches[2])
    await watches[0].aclose()
    again = servicer.Watch(health_pb2.HealthCheckRequest(), context=None)
    assert (await anext(again)).status == SERVING
    for watch in (watches[1], again):
        await watch.aclose()


@pytest.mark.parametrize("how", ["cancels", "closes its channel"])
async def test_a_watch_whose_client_goes_gives_its_place_back(how: str) -> None:
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    servicer = HealthServicer(FakeGenerator(), (), max_watches=1)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    request = health_pb2.HealthCheckRequest()
    async with grpc.aio.insecure_channel(address) as first, grpc.aio.insecure_channel(address) as second:
        watch = health_pb2_grpc.HealthStub(first).Watch(request, timeout=300)
        assert (await watch.read()).status == SERVING
        others = health_pb2_grpc.HealthStub(second)
        with pytest.raises(grpc.aio.AioRpcError, match="allowed are 1 watches"):
            await others.Watch(request, timeout=300).read()
        if how == "cancels":
            watch.cancel()
        else:
            await first.close()
        async with asyncio.timeout(300):
            while servicer._num_watches:  # noqa: ASYNC110  (there is no event for it)
                await asyncio.sleep(0.005)
        assert (await others.Watch(request, timeout=300).read()).status == SERVING
    await server.stop(grace=None)


async def test_server_info_tells_settings_and_model() -> None:
    async with running(FakeGenerator()) as service:
        stub = admin_pb2_grpc.AdminServiceStub(service.channel)
        info = await stub.GetServerInfo(admin_pb2.GetServerInfoRequest())
    assert info.version == "1.2.3"
    assert (info.policy, info.preempt_at, info.preemption_quantum_ms) == ("qllm", "expert", 5.0)
    assert (info.be_min_share, info.max_ls_requests, info.max_be_requests) == (0.05, 256, 4096)
    assert (info.ls_ttft_ms, info.ls_tpot_ms) == (250.0, 50.0)
    assert (info.worker_state, info.worker_epoch) == (admin_pb2.WORKER_STATE_READY, 7)
    assert (info.shares_prefixes, info.no_sharing_reason) == (True, "")
    assert MessageToDict(info.model, preserving_proto_field_name=True) == {
        "name": "fake",
        "num_layers": 2,
        "num_experts": 8,
        "num_experts_per_token": 2,
        "vocab_size": 400,
        "max_model_len": 512,
        "block_size": 16,
        "num_blocks": 64,
        "num_host_blocks": 64,
        "num_disk_blocks": 32,
        "dtype": "float32",
        "quantization": "none",
        "family": "mixtral",
        "device": "cpu",
        "checkpoint_dtype": "bfloat16",
        "dtype_reason": "measurement: bfloat16/float32=2.21",
    }


async def test_server_info_without_worker_has_no_model() -> None:
    async with running(FakeGenerator(model=None, worker_state=WorkerState.ABSENT, worker_epoch=0)) as service:
        info = await admin_pb2_grpc.AdminServiceStub(service.channel).GetServerInfo(admin_pb2.GetServerInfoRequest())
    assert not info.HasField("model")
    assert (info.worker_state, info.worker_epoch) == (admin_pb2.WORKER_STATE_ABSENT, 0)


async def test_server_info_says_why_prefixes_are_not_shared() -> None:
    async with running(FakeGenerator(no_sharing_reason="layers keep a state")) as service:
        info = await admin_pb2_grpc.AdminServiceStub(service.channel).GetServerInfo(admin_pb2.GetServerInfoRequest())
    assert (info.shares_prefixes, info.no_sharing_reason) == (False, "layers keep a state")


async def test_loads_are_the_generators() -> None:
    async with running(FakeGenerator()) as service:
        loads = await admin_pb2_grpc.AdminServiceStub(service.channel).GetLoads(admin_pb2.GetLoadsRequest())
    assert loads.latency_sensitive.queued_prefill == 1
    assert loads.best_effort.queued_prefill == 100
    assert (loads.total_blocks, loads.free_blocks, loads.be_share) == (64, 60, 0.25)
    assert (loads.num_preemptions_at_layer, loads.num_preemptions_at_expert, loads.num_promotions) == (14, 15, 18)
    assert {field: getattr(loads.memory, field) for field in MemoryLoad.__dataclass_fields__} == asdict(MEMORY)
    assert not loads.HasField("check")
    assert loads.latency_sensitive.predicted_wait_ms == 250.0
    assert (loads.latency_sensitive.num_attained, loads.latency_sensitive.num_judged, loads.num_riders) == (5, 10, 19)


async def test_a_check_is_made_if_it_is_asked_for() -> None:
    generator = FakeGenerator(check=IntegrityCheck(("block 5 leaked",), 9, 3))
    async with running(generator) as service:
        loads = await admin_pb2_grpc.AdminServiceStub(service.channel).GetLoads(admin_pb2.GetLoadsRequest(check=True))
    assert loads.check == admin_pb2.IntegrityCheck(problems=["block 5 leaked"], num_held_blocks=9, num_sequences=3)


async def reflect(service: Service, version: str, **question: str) -> reflection_pb2.ServerReflectionResponse:
    call = service.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=300)
    [answer] = [answer async for answer in call]
    return answer


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services(version: str) -> None:
    async with running(FakeGenerator()) as service:
        answer = await reflect(service, version, list_services="")
    names = {one.name for one in answer.list_services_response.service}
    reflections = {"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
    assert names == {*SERVICE_NAMES, "grpc.health.v1.Health", *reflections}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_describes_every_service_that_it_lists(version: str) -> None:
    async with running(FakeGenerator()) as service:
        listed = await reflect(service, version, list_services="")
        for one in listed.list_services_response.service:
            answer = await reflect(service, version, file_containing_symbol=one.name)
            assert answer.WhichOneof("message_response") == "file_descriptor_response", one.name


@pytest.mark.parametrize(
    ("method", "raw", "says"),
    [
        ("grpc.health.v1.Health/Check", b"\x0a\x01\xff", "service: got the bytes ff, allowed is valid UTF-8"),
        ("grpc.health.v1.Health/Watch", b"\x0a\x7f", "a message of type grpc.health.v1.HealthCheckRequest"),
        ("grpc.health.v1.Health/List", b"\xff", "a message of type grpc.health.v1.HealthListRequest"),
        (
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            b"\x3a\x01\xff",
            "list_services: got the bytes ff",
        ),
        (
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            b"\xff",
            "request: got 1 byte, allowed is a message",
        ),
    ],
)
async def test_bytes_that_are_no_message_are_refused_by_every_service(method: str, raw: bytes, says: str) -> None:
    async with running(FakeGenerator()) as service:
        call = service.channel.stream_stream(f"/{method}")(iter([raw]), timeout=300)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in (error.value.details() or "")


async def test_reflection_goes_on_after_a_question_that_it_cannot_answer() -> None:
    async with running(FakeGenerator()) as service:
        answer = await reflect(service, "v1", file_containing_symbol="no.Such")
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def first_failure(channel: grpc.aio.Channel) -> grpc.StatusCode:
    """Calls until a call fails: a server that was told to stop may still take some."""
    while True:
        try:
            await admin_pb2_grpc.AdminServiceStub(channel).GetLoads(admin_pb2.GetLoadsRequest(), timeout=300)
        except grpc.aio.AioRpcError as error:
            return error.code()


async def test_stop_lets_running_streams_end_and_refuses_new_calls() -> None:
    generator = FakeGenerator(hold_after=1)
    async with running(generator) as service:
        call = service.inference.Generate(pb.GenerateRequest(request_id="last", text="hello"))
        await call.read()
        stopping = asyncio.create_task(service.server.stop(grace_s=300))
        async with grpc.aio.insecure_channel(service.server.address) as other:
            assert await first_failure(other) is grpc.StatusCode.UNAVAILABLE
        generator.abort("last")
        *_, last = await rest(call)
        assert last.finish.reason == pb.FINISH_REASON_ABORTED
        async with asyncio.timeout(300):
            await stopping


async def test_streams_that_outlive_the_grace_are_cancelled_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    generator = FakeGenerator(hold_after=1)
    async with running(generator) as service:
        call = service.inference.Generate(pb.GenerateRequest(request_id="stuck", text="hello"))
        await call.read()
        async with asyncio.timeout(300):
            await service.server.stop(grace_s=0.1)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await rest(call)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.sleep(0)
        assert generator.closed_early == ["stuck"]
    assert caplog.records == []


async def test_port_that_is_taken_is_refused() -> None:
    async with running(FakeGenerator()) as service:
        second = api_server(FakeGenerator(), listening=Listening(port=service.server.port))
        with pytest.raises(OSError, match="Address already in use"):
            second.bind()
        await second.stop(grace_s=0)
        assert (await collect(service, text_request("hello", max_tokens=1)))[-1].HasField("finish")


def test_default_address_is_this_machine_only() -> None:
    assert Listening().host == "127.0.0.1"
