"""Whatever a front end refuses is counted once, in the class that was asked for and by its reason."""

from collections.abc import Mapping

import grpc
import pytest
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import BatchFailed, Overloaded, Refusal
from tests.support.service.api_service import collect, running
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import CHAT, COMPLETIONS, http_app

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
TOO_HOT = pb.SamplingParams(temperature=1000)


def fine() -> FakeGenerator:
    return FakeGenerator()


def full() -> FakeGenerator:
    return FakeGenerator(refuse_with=Overloaded("best-effort", 8, 1.25))


def without_worker() -> FakeGenerator:
    return FakeGenerator(model=None)


GRPC_CASES = (
    (fine(), pb.GenerateRequest(text="hi", sampling=TOO_HOT), LS, Refusal.INVALID),
    (
        fine(),
        pb.GenerateRequest(text="hi", sampling=TOO_HOT, request_class=pb.REQUEST_CLASS_BEST_EFFORT),
        BE,
        Refusal.INVALID,
    ),
    (fine(), pb.GenerateRequest(request_class=pb.REQUEST_CLASS_BEST_EFFORT), BE, Refusal.INVALID),
    (fine(), pb.GenerateRequest(text="hi", request_class=77), LS, Refusal.INVALID),  # type: ignore[arg-type]
    (full(), pb.GenerateRequest(text="hi", request_class=pb.REQUEST_CLASS_BEST_EFFORT), BE, Refusal.OVERLOAD),
    (without_worker(), pb.GenerateRequest(text="hi"), LS, Refusal.NO_WORKER),
)
HTTP_CASES = (
    (fine(), COMPLETIONS, {"prompt": "hi", "temperature": 1000, "service_tier": "flex"}, BE, Refusal.INVALID),
    (fine(), COMPLETIONS, {"prompt": "hi", "no_such_field": 1}, LS, Refusal.INVALID),
    (fine(), COMPLETIONS, {"prompt": "hi", "model": "another", "priority": 1}, BE, Refusal.INVALID),
    (fine(), CHAT, {"messages": []}, LS, Refusal.INVALID),
    (fine(), COMPLETIONS, {"prompt": ["a", "b"], "n": 100, "service_tier": "flex"}, BE, Refusal.INVALID),
    (full(), COMPLETIONS, {"prompt": "hi", "service_tier": "batch", "n": 3}, BE, Refusal.OVERLOAD),
    (full(), COMPLETIONS, {"prompt": "hi", "stream": True}, LS, Refusal.OVERLOAD),
    (without_worker(), COMPLETIONS, {"prompt": "hi", "service_tier": "flex"}, BE, Refusal.NO_WORKER),
)


@pytest.mark.parametrize(("generator", "request_", "request_class", "refusal"), GRPC_CASES)
async def test_a_refusal_over_grpc_is_counted_once(
    generator: FakeGenerator, request_: pb.GenerateRequest, request_class: RequestClass, refusal: Refusal
) -> None:
    async with running(generator) as service:
        with pytest.raises(grpc.aio.AioRpcError):
            await collect(service, request_)
    assert generator.refused == [(request_class, refusal)]


@pytest.mark.parametrize(("generator", "path", "body", "request_class", "refusal"), HTTP_CASES)
async def test_a_refusal_over_http_is_counted_once(
    generator: FakeGenerator, path: str, body: Mapping[str, object], request_class: RequestClass, refusal: Refusal
) -> None:
    async with http_app(generator) as service:
        assert (await service.post(path, **body)).status_code >= 400
    assert generator.refused == [(request_class, refusal)]


async def test_what_fails_later_is_no_refusal() -> None:
    generator = FakeGenerator(fail_with=BatchFailed("the worker could not run this request"), fail_after=1)
    async with running(generator) as service, http_app(generator) as http:
        with pytest.raises(grpc.aio.AioRpcError):
            await collect(service, pb.GenerateRequest(text="hi"))
        assert (await http.post(COMPLETIONS, prompt="hi")).status_code == 500
    assert generator.refused == []
