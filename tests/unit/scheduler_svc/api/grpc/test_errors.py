"""Every error leaves as its status, with what a client needs to act on it, and nothing of a prompt in the log."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from unittest.mock import Mock

import grpc
import pytest
import tokenizers
from google.rpc import error_details_pb2, status_pb2
from qllm.v1 import admin_pb2, admin_pb2_grpc
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.grpc.errors import trailing_metadata
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import BatchFailed, InvalidRequest, Overloaded, ServiceError, WorkerUnavailable
from scheduler_svc.process.panics import LibraryPanic
from scheduler_svc.serving.admission import ClassAdmission, ClassLimits
from scheduler_svc.text.threads import TextThreads
from tests.support.models.sample_tokenizers import panicking_tokenizer_json
from tests.support.service.api_service import Service, collect, running, text_request
from tests.support.service.fakes import FakeGenerator, served_model

SECRET = "my secret prompt"


async def error_of(service: Service, request: pb.GenerateRequest) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await collect(service, request)
    return error.value


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    [raw] = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    return status_pb2.Status.FromString(raw)


async def test_overload_says_when_to_retry() -> None:
    generator = FakeGenerator(refuse_with=Overloaded("best-effort", 8, 1.25))
    async with running(generator) as service:
        error = await error_of(service, text_request("hello"))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "best-effort: 8 requests" in (error.details() or "")
    assert ("grpc-retry-pushback-ms", "1250") in [tuple(pair) for pair in error.trailing_metadata()]
    status, retry = details_of(error), error_details_pb2.RetryInfo()
    assert status.code == 8
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1250


async def test_without_worker_each_caller_is_told_its_own_time_to_retry() -> None:
    delays_ms = set()
    async with running(FakeGenerator(model=None)) as service:
        for _ in range(4):
            error = await error_of(service, text_request("hello"))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            retry = error_details_pb2.RetryInfo()
            assert details_of(error).details[0].Unpack(retry)
            delays_ms.add(retry.retry_delay.ToMilliseconds())
    assert all(2000 <= delay_ms <= 3000 for delay_ms in delays_ms)
    assert len(delays_ms) > 1


async def one_request_too_many() -> None:
    ClassAdmission(RequestClass.BEST_EFFORT, ClassLimits(0)).enter(1)


async def one_text_too_many() -> None:
    await TextThreads(max_waiting_chars=0).run(RequestClass.BEST_EFFORT, 10_000, str)


@pytest.mark.parametrize("exceed", [one_request_too_many, one_text_too_many])
async def test_the_time_to_retry_after_overload_differs(exceed: Callable[[], Awaitable[None]]) -> None:
    hints = set()
    for _ in range(8):
        with pytest.raises(Overloaded) as caught:
            await exceed()
        hints.add(caught.value.retry_after_s)
        assert f"retry in {caught.value.retry_after_s:.1f} s" in str(caught.value)
    assert all(hint is not None and 1 <= hint <= 1.5 for hint in hints)
    assert len(hints) > 1


async def test_bad_field_is_named_in_the_details() -> None:
    async with running(FakeGenerator()) as service:
        error = await error_of(service, text_request("hello", max_tokens=-4))
    bad_request = error_details_pb2.BadRequest()
    assert details_of(error).details[0].Unpack(bad_request)
    [violation] = bad_request.field_violations
    assert violation.field == "stop.max_tokens"
    assert "-4" in violation.description


@pytest.mark.parametrize("error", [WorkerUnavailable("the worker went away"), BatchFailed("out of memory")])
async def test_failure_inside_a_stream_ends_it_with_its_status(error: ServiceError) -> None:
    generator = FakeGenerator(fail_with=error)
    async with running(generator) as service:
        seen = await error_of(service, text_request("hello"))
        assert (seen.code(), seen.details()) == (error.status, str(error))
        assert generator.live == {}


async def test_unforeseen_error_is_logged_with_its_traceback_and_told_as_internal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    generator = FakeGenerator(fail_with=ZeroDivisionError("division by zero"))
    async with running(generator) as service:
        error = await error_of(service, text_request(SECRET))
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
        assert generator.live == {}
    assert "ZeroDivisionError" in caplog.text
    assert "/qllm.v1.InferenceService/Generate" in caplog.text
    assert "Traceback" in caplog.text


async def test_stream_that_ends_without_a_reason_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    generator = FakeGenerator(script=lambda _: [])
    async with running(generator) as service:
        error = await error_of(service, text_request("hello"))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert caplog.records


async def test_unforeseen_error_in_a_unary_call_is_internal(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = FakeGenerator()

    def broken(request_id: str, tenant: str | None) -> bool:
        raise KeyError(request_id)

    monkeypatch.setattr(generator, "abort", broken)
    async with running(generator) as service:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.inference.Abort(pb.AbortRequest(request_id="x"))
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "KeyError" in caplog.text


def panic() -> BaseException:
    """What the tokenizers library raises when its Rust code panics."""
    tokenizer = tokenizers.Tokenizer.from_buffer(panicking_tokenizer_json())
    with pytest.raises(BaseException) as caught:  # noqa: PT011  (its class has no name to import)
        tokenizer.decode(tokenizer.encode("a").ids)
    assert not isinstance(caught.value, Exception)
    return caught.value


async def test_panic_of_the_tokenizer_ends_its_stream_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    generator = FakeGenerator(served_model(tokenizer_json=panicking_tokenizer_json()), script=lambda _: [66, 66])
    async with running(generator) as service:
        error = await error_of(service, text_request("b"))
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
        assert generator.live == {}
    assert "PanicException" in caplog.text


@pytest.mark.parametrize("text", ["short", "long " * 1000])
async def test_panic_while_a_prompt_is_tokenized_is_internal(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    panicking = Mock(side_effect=panic())
    monkeypatch.setattr("scheduler_svc.text.tokenizer.Tokenizer.encode", panicking)
    async with running(FakeGenerator(served_model(core=replace(served_model().core, max_model_len=8192)))) as service:
        error = await error_of(service, text_request(text))
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert panicking.called


async def test_panic_while_a_tokenizer_is_made_is_an_error_that_ends_nothing_silently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "scheduler_svc.text.tokenizer.tokenizers", Mock(**{"Tokenizer.from_buffer.side_effect": panic()})
    )
    with pytest.raises(LibraryPanic, match="PanicException"):
        await TextGenerator(FakeGenerator()).warm_up()


async def test_panic_in_a_unary_call_is_internal(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = FakeGenerator()
    monkeypatch.setattr(generator, "loads", Mock(side_effect=panic()))
    async with running(generator) as service:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await admin_pb2_grpc.AdminServiceStub(service.channel).GetLoads(admin_pb2.GetLoadsRequest(), timeout=300)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")


async def test_without_a_worker_requests_are_unavailable() -> None:
    generator = FakeGenerator(model=None)
    async with running(generator) as service:
        error = await error_of(service, text_request("hello"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "no worker" in (error.details() or "")


async def test_prompts_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    generator = FakeGenerator()
    secret_chat = pb.ChatPrompt(messages=[{"role": SECRET, "content": SECRET}])
    async with running(generator) as service:
        await collect(service, text_request(SECRET, max_tokens=2))
        await error_of(service, text_request(SECRET * 1000))
        await error_of(service, pb.GenerateRequest(chat=secret_chat))
        generator.fail_with = RuntimeError("broken")
        await error_of(service, text_request(SECRET))
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text


def test_every_error_fits_into_the_metadata_that_grpc_sends() -> None:
    error = InvalidRequest("chat", "x" * 10_000, "y" * 300)
    assert sum(len(value) for _, value in trailing_metadata(error)) + len(str(error)) < 8192
