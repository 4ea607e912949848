"""Over gRPC nothing but health is open where there are API keys, and a tenant sees what is its own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from qllm.v1 import admin_pb2, admin_pb2_grpc
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.grpc.key_check import rule_of
from scheduler_svc.api.grpc.server import SERVICE_NAMES
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import PermissionDenied, Refusal
from scheduler_svc.security.gate import NOT_LISTED
from tests.support.security.api_keys import bearer, entry, gate_of
from tests.support.service.api_service import Service, running, text_request
from tests.support.service.fakes import FakeGenerator

HEALTH = "/grpc.health.v1.Health"
KEYS = (
    entry("a", "key-a"),
    entry("b", "key-b"),
    entry("batch", "key-be", classes=["be"]),
    entry("watch", "key-watch", ["observe"]),
    entry("ops", "key-ops", ["admin"]),
    entry("few", "key-few", requests_per_minute=1),
)


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
async def service(tmp_path: Path, generator: FakeGenerator) -> AsyncIterator[Service]:
    async with running(generator, gate=gate_of(tmp_path / "keys.toml", *KEYS)) as service:
        yield service


async def reflected_methods(service: Service) -> list[str]:
    """Returns /SERVICE/METHOD of all that reflection lists."""
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(service.channel).ServerReflectionInfo(metadata=bearer("key-a"))
    await call.write(ask)
    listed = await call.read()
    call.cancel()
    pool = descriptor_pool.Default()
    names = [one.name for one in listed.list_services_response.service]
    return [f"/{name}/{method.name}" for name in names for method in pool.FindServiceByName(name).methods]


async def status_of(service: Service, method: str, key: str | None) -> tuple[grpc.StatusCode, str]:
    """Returns how a call without a message ends, which nothing but a refusal can."""
    metadata = () if key is None else bearer(key)
    call = service.channel.stream_stream(method)(metadata=metadata, timeout=10)
    await call.done_writing()
    code = await call.code()
    return code, await call.details()


async def generate(service: Service, request: pb.GenerateRequest, key: str) -> list[pb.GenerateResponse]:
    return [one async for one in service.inference.Generate(request, metadata=bearer(key), timeout=300)]


async def test_every_method_that_reflection_lists_is_refused_without_a_key(service: Service) -> None:
    methods = await reflected_methods(service)
    assert {method.rpartition("/")[0] for method in methods} >= {
        *(f"/{name}" for name in SERVICE_NAMES),
        HEALTH,
    }
    closed = [method for method in methods if not method.startswith(f"{HEALTH}/")]
    assert len(closed) >= 6
    for method in closed:
        for key in (None, "nobody's", ""):
            code, details = await status_of(service, method, key)
            assert (method, code) == (method, grpc.StatusCode.UNAUTHENTICATED)
            assert "API key" in details


async def test_every_method_that_reflection_lists_has_a_rule(service: Service) -> None:
    assert [method for method in await reflected_methods(service) if rule_of(method) is NOT_LISTED] == []


async def test_reflection_itself_needs_a_key(service: Service) -> None:
    for version in ("v1", "v1alpha"):
        method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        assert (await status_of(service, method, None))[0] is grpc.StatusCode.UNAUTHENTICATED
        assert (await status_of(service, method, "key-watch"))[0] is grpc.StatusCode.OK


async def test_health_is_open(service: Service) -> None:
    answer = await health_pb2_grpc.HealthStub(service.channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_refusal_does_not_wait_for_the_request(service: Service) -> None:
    call = service.channel.stream_stream("/qllm.v1.InferenceService/Generate")(timeout=300)
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_may_come_as_x_api_key(service: Service, generator: FakeGenerator) -> None:
    request = text_request("hello", max_tokens=1)
    call = service.inference.Generate(request, metadata=(("x-api-key", "key-a"),), timeout=300)
    assert [one async for one in call]
    assert generator.submitted[0].tenant == "a"


@pytest.mark.parametrize(
    ("method", "keys"),
    [
        ("/qllm.v1.InferenceService/Generate", {"key-a", "key-be", "key-few"}),
        ("/qllm.v1.InferenceService/Abort", {"key-a", "key-be", "key-few", "key-ops"}),
        ("/qllm.v1.AdminService/GetServerInfo", {"key-a", "key-be", "key-few", "key-ops", "key-watch"}),
        ("/qllm.v1.AdminService/GetLoads", {"key-ops", "key-watch"}),
        ("/qllm.v1.AdminService/Drain", {"key-ops"}),
        ("/qllm.v1.AdminService/WhateverIsNext", {"key-ops"}),
        ("/qllm.v1.BatchesService/CreateBatch", {"key-a", "key-be", "key-few"}),
        ("/qllm.v1.Unheard/Of", {"key-ops"}),
    ],
)
def test_each_method_takes_the_keys_that_its_rule_names(tmp_path: Path, method: str, keys: set[str]) -> None:
    gate = gate_of(tmp_path / "keys.toml", *KEYS)
    taken = set()
    for key in ("key-a", "key-be", "key-few", "key-ops", "key-watch"):
        try:
            rule_of(method).check(gate.grant_of(f"Bearer {key}"), method)
        except PermissionDenied:
            continue
        taken.add(key)
    assert taken == keys


async def test_what_a_key_may_not_do_is_refused_by_the_permission(service: Service) -> None:
    code, details = await status_of(service, "/qllm.v1.AdminService/GetLoads", "key-a")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert details == "/qllm.v1.AdminService/GetLoads needs the permission 'observe'; this key has 'generate'"


async def test_a_class_that_a_key_may_not_have_is_refused_by_those_that_it_may(
    service: Service, generator: FakeGenerator
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await generate(service, text_request("hello", max_tokens=1), "key-be")
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert refused.value.details() == "class: got latency-sensitive, allowed with this key is best-effort (be)"
    assert generator.refused == [(RequestClass.LATENCY_SENSITIVE, Refusal.DENIED)]
    request = text_request("hello", max_tokens=1)
    request.request_class = pb.REQUEST_CLASS_BEST_EFFORT
    assert await generate(service, request, "key-be")


async def test_a_quota_that_is_used_up_is_refused_with_the_time_to_come_back(service: Service) -> None:
    await generate(service, text_request("hello", max_tokens=1), "key-few")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await generate(service, text_request("hello", max_tokens=1), "key-few")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "quota of tenant few: allowed are 1 requests a minute" in str(refused.value.details())
    trailing = dict(refused.value.trailing_metadata())
    assert 60_000 <= int(trailing["grpc-retry-pushback-ms"]) <= 90_000
    assert await generate(service, text_request("hello", max_tokens=1), "key-a")  # others are not concerned


async def test_a_tenant_can_not_abort_what_is_anothers_nor_learn_that_it_is_there(
    service: Service, generator: FakeGenerator
) -> None:
    generator.hold_after = 1
    request = text_request("hello", max_tokens=5)
    request.request_id = "mine"
    streaming = asyncio.create_task(generate(service, request, "key-a"))
    async with asyncio.timeout(300):
        while not generator.live:  # noqa: ASYNC110  (the fake has no event for it)
            await asyncio.sleep(0.005)
    abort = pb.AbortRequest(request_id="mine")
    nothing = pb.AbortRequest(request_id="nobody's")
    theirs = await service.inference.Abort(abort, metadata=bearer("key-b"))
    assert theirs == await service.inference.Abort(nothing, metadata=bearer("key-b"))
    assert not theirs.aborted
    assert not generator.live["mine"].aborted.is_set()
    assert (await service.inference.Abort(abort, metadata=bearer("key-a"))).aborted
    assert (await streaming)[-1].finish.reason == pb.FINISH_REASON_ABORTED


async def test_who_may_administer_may_abort_whoevers_request(service: Service, generator: FakeGenerator) -> None:
    generator.hold_after = 1
    request = text_request("hello", max_tokens=5)
    request.request_id = "mine"
    streaming = asyncio.create_task(generate(service, request, "key-a"))
    async with asyncio.timeout(300):
        while not generator.live:  # noqa: ASYNC110  (the fake has no event for it)
            await asyncio.sleep(0.005)
    assert (await service.inference.Abort(pb.AbortRequest(request_id="mine"), metadata=bearer("key-ops"))).aborted
    await streaming


async def test_tenants_have_caches_of_their_own_whatever_salt_they_give(
    service: Service, generator: FakeGenerator
) -> None:
    for key, salt in (("key-a", ""), ("key-b", ""), ("key-a", "x"), ("key-b", "x"), ("key-b", "a"), ("key-a", "")):
        request = text_request("hello", max_tokens=1)
        request.cache_salt = salt
        await generate(service, request, key)
    *salts, again = [one.cache_salt for one in generator.submitted]
    assert len(set(salts)) == 5
    assert again == salts[0]


async def test_without_keys_everything_is_open_and_nobodys() -> None:
    generator = FakeGenerator()
    async with running(generator) as service:
        async for _ in service.inference.Generate(text_request("hello", max_tokens=1)):
            pass
        assert await admin_pb2_grpc.AdminServiceStub(service.channel).GetLoads(admin_pb2.GetLoadsRequest())
    assert (generator.submitted[0].tenant, generator.submitted[0].cache_salt) == ("", b"")
