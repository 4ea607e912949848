"""Streams over a real socket: who leaves stops the work, who does not read delays nobody, and errors arrive."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import httpx2
import openai
import pytest
from qllm.client.bench.load.http_target import HttpDialect, HttpTarget
from qllm.client.bench.load.target import Ask
from qllm.client.bench.load.workload import LS

from scheduler_svc.api.openai.connections.limits import HttpLimits
from scheduler_svc.api.openai.wire.sse import EventStream
from scheduler_svc.api.prompt import prompt_token_ids
from scheduler_svc.errors import BatchFailed, Overloaded, ServiceError, WorkerUnavailable
from tests.support.models.sample_tokenizers import panicking_tokenizer_json
from tests.support.service.fakes import FakeGenerator, FakeStream, served_model
from tests.support.service.openai_service import (
    CHAT,
    COMPLETIONS,
    USER_SAYS_HI,
    HttpServer,
    error_of,
    events_of,
    http_app,
    running_http,
)


class Panic(BaseException):
    """Stands for what a library in Rust raises."""


async def until(condition: Callable[[], object], timeout_s: float = 300) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  (the fake has no event for it)
            await asyncio.sleep(0.005)


async def first_event(response: httpx2.Response) -> str:
    async for line in response.aiter_lines():
        return line
    raise AssertionError("the stream ended")


def at_once(
    source: Callable[[], AsyncGenerator[bytes, None]],
) -> Callable[[], Awaitable[AsyncGenerator[bytes, None]]]:
    """Returns what makes a source without waiting."""

    async def begin() -> AsyncGenerator[bytes, None]:
        return source()

    return begin


@pytest.mark.parametrize("body", [{"prompt": "hello"}, {"prompt": "hello", "n": 3}], ids=["one", "three"])
async def test_tokens_arrive_while_the_generation_goes_on(body: dict[str, object]) -> None:
    async with running_http(FakeGenerator(hold_after=1)) as service:
        stream = service.http.stream("POST", COMPLETIONS, json={**body, "stream": True})
        async with stream as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-cache"
            assert json.loads((await first_event(response)).removeprefix("data: "))["choices"][0]["text"]
            assert service.generator.live


@pytest.mark.parametrize("body", [{"prompt": "hello"}, {"prompt": "hello", "n": 3}], ids=["one", "three"])
async def test_client_that_leaves_a_stream_ends_its_work(
    body: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    generator = FakeGenerator(hold_after=1)
    async with running_http(generator) as service:
        async with service.http.stream("POST", COMPLETIONS, json={**body, "stream": True}) as response:
            await first_event(response)
            live = list(generator.live)
        await until(lambda: not generator.live)
        assert generator.closed_early == live
        await until(lambda: service.server.num_running == 0)  # a turn of the loop or two later
    assert caplog.records == []


async def test_client_that_leaves_before_a_whole_answer_ends_its_work(caplog: pytest.LogCaptureFixture) -> None:
    generator = FakeGenerator(hold_after=1)
    async with running_http(generator) as service:
        asking = asyncio.create_task(service.post(CHAT, messages=USER_SAYS_HI, n=2))
        await until(lambda: len(generator.live) == 2)
        asking.cancel()
        await until(lambda: not generator.live)
        assert len(generator.closed_early) == 2
    assert caplog.records == []


async def test_200_streams_that_are_left_at_random_moments_leave_nothing(caplog: pytest.LogCaptureFixture) -> None:
    generator = FakeGenerator(script=lambda _: [65] * 100_000)
    async with running_http(generator) as service:

        async def one(index: int) -> None:
            body = {"prompt": "hello " * (1 + index % 90), "stream": index % 2 == 0, "n": 1 + index % 3}
            asking = asyncio.create_task(service.post(COMPLETIONS, **body))
            for _ in range(index * 37 % 200):  # client and server share the loop: the server gets as many turns
                await asyncio.sleep(0)
            asking.cancel()

        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=service.http.base_url, limits=limits, timeout=300) as many:
            service.http = many
            await asyncio.gather(*(one(index) for index in range(200)))
        assert generator.submitted
        await until(lambda: not generator.live)
        await until(lambda: service.server.num_running == 0)
    assert caplog.records == []


async def stuck_reader(service: HttpServer) -> tuple[socket.socket, FakeStream]:
    """Returns a connection whose client reads nothing, once the server can write no more to it."""
    reader = socket.create_connection(("127.0.0.1", service.server.port))
    body = json.dumps({"prompt": [5], "stream": True, "return_token_ids": True}).encode()
    head = (
        f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    reader.sendall(head.encode() + body)
    await until(lambda: service.generator.live)
    [stream] = service.generator.live.values()
    num_out = -1
    async with asyncio.timeout(300):
        while stream.num_out != num_out:
            num_out = stream.num_out
            await asyncio.sleep(0.3)
    return reader, stream


async def test_reader_that_never_reads_delays_nobody_and_is_aborted_when_it_leaves() -> None:
    script = [65] * 4_000_000
    generator = FakeGenerator(script=lambda _: script, tokens_per_event=10_000, model=served_model(tokenizer_json=b""))
    async with running_http(generator) as service:
        reader, stream = await stuck_reader(service)
        with reader:
            assert stream.num_out < len(script)
            generator.script = lambda _: [65] * 50
            for _ in range(3):
                await service.answer(COMPLETIONS, prompt=[5])
            assert not stream.closed
        await until(lambda: not generator.live)
        assert stream.closed


@pytest.mark.parametrize("num_choices", [1, 3])
async def test_error_amid_a_stream_comes_in_place_of_its_end(num_choices: int) -> None:
    generator = FakeGenerator(fail_with=BatchFailed("the worker could not run the batch"), fail_after=1)
    async with http_app(generator) as service:
        response = await service.post(COMPLETIONS, prompt="hello", stream=True, n=num_choices)
    assert response.status_code == 200
    *chunks, last = events_of(response.text)
    assert all(json.loads(chunk)["choices"] for chunk in chunks)
    assert 1 <= len(chunks) <= num_choices
    assert json.loads(last)["error"]["message"] == "the worker could not run the batch"
    assert json.loads(last)["error"]["type"] == "server_error"
    assert generator.live == {}


@pytest.mark.parametrize("num_choices", [1, 3])
@pytest.mark.parametrize(
    ("error", "status"), [(BatchFailed("no memory"), 500), (WorkerUnavailable("the worker is gone"), 503)]
)
async def test_error_of_a_stream_before_its_first_event_has_its_status(
    error: ServiceError, status: int, num_choices: int
) -> None:
    generator = FakeGenerator(fail_with=error)
    async with http_app(generator) as service:
        response = await service.post(COMPLETIONS, prompt="hello", stream=True, n=num_choices)
    assert response.status_code == status
    assert error_of(response)["message"] == str(error)
    assert ("retry-after" in response.headers) == (status == 503)
    assert generator.live == {}


async def test_headers_leave_with_the_first_event() -> None:
    events: asyncio.Queue[bytes] = asyncio.Queue()
    sent: list[str] = []

    async def source() -> AsyncGenerator[bytes, None]:
        yield await events.get()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    stream = EventStream(at_once(source), lambda error: b"", {}, comment_interval_s=1e6)
    answering = asyncio.create_task(stream({"type": "http"}, None, send))  # type: ignore[arg-type]  # it reads nothing
    for _ in range(5):
        await asyncio.sleep(0)
    assert sent == []
    events.put_nowait(b"data: 1\n\n")
    await answering
    assert sent == ["http.response.start", "http.response.body", "http.response.body"]


@dataclass
class Gated(FakeGenerator):
    """Streams wait at a gate before each event."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def pace(self, stream: FakeStream) -> None:
        await self.gate.wait()


@asynccontextmanager
async def silent_stream(generator: FakeGenerator) -> AsyncIterator[httpx2.Response]:
    """Yields the answer of a server that sends comments as soon as it has nothing else to send."""
    body = {"prompt": "hello", "stream": True}
    limits = HttpLimits(comment_interval_s=0.01)
    async with (
        running_http(generator, limits=limits) as service,
        service.http.stream("POST", COMPLETIONS, json=body) as response,
    ):
        yield response


@pytest.mark.parametrize("hold_after", [0, 1], ids=["first", "next"])
async def test_stream_that_waits_for_its_event_sends_comments(hold_after: int) -> None:
    generator = FakeGenerator(hold_after=hold_after)
    async with silent_stream(generator) as response:
        assert response.status_code == 200
        lines = response.aiter_lines()
        seen = [await anext(lines) for _ in range(10)]
        for request_id in list(generator.live):
            generator.abort(request_id)
        seen += [line async for line in lines]
    assert seen.count(": waiting") >= 3
    data = [line.removeprefix("data: ") for line in seen if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    assert len(data) == hold_after + 2
    assert {line for line in seen if not line.startswith("data: ")} == {": waiting", ""}


class Slow(FakeGenerator):
    """Every event comes after more than one comment."""

    async def pace(self, stream: FakeStream) -> None:
        await asyncio.sleep(0.03)


async def test_clients_pass_comments_over() -> None:
    async with running_http(Slow(), limits=HttpLimits(comment_interval_s=0.01)) as service:
        url = f"http://{service.server.address}"
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
            stream = await sdk.completions.create(model="fake", prompt="hello", max_tokens=3, stream=True)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == "hellohe"
        target = HttpTarget(url, model=None, dialect=HttpDialect())
        *chunks, _ = [chunk async for chunk in target.stream(Ask(LS, "hello", 3))]
        await target.close()
        assert len(chunks) == 3


async def test_error_after_a_comment_travels_in_the_stream() -> None:
    generator = Gated(fail_with=WorkerUnavailable("the worker is gone"))
    async with silent_stream(generator) as response:
        lines = response.aiter_lines()
        assert await anext(lines) == ": waiting"
        generator.gate.set()
        *_, last, _ = [line async for line in lines]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the worker is gone"


@pytest.fixture
def tokenizing(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Makes every prompt wait, as behind long texts, until the event is set."""
    is_done = asyncio.Event()

    async def slow(*args: Any) -> tuple[int, ...]:
        await is_done.wait()
        return await prompt_token_ids(*args)

    monkeypatch.setattr("scheduler_svc.api.text_generation.prompt_token_ids", slow)
    return is_done


async def test_stream_whose_prompt_waits_to_be_tokenized_sends_comments(tokenizing: asyncio.Event) -> None:
    async with silent_stream(FakeGenerator()) as response:
        lines = response.aiter_lines()
        assert await anext(lines) == ": waiting"
        tokenizing.set()
        *_, last, _ = [line async for line in lines]
    assert last == "data: [DONE]"


async def test_refusal_after_a_comment_travels_in_the_stream(tokenizing: asyncio.Event) -> None:
    generator = FakeGenerator(refuse_with=Overloaded("best-effort", 5, retry_after_s=1.25))
    async with silent_stream(generator) as response:
        lines = response.aiter_lines()
        assert await anext(lines) == ": waiting"
        tokenizing.set()
        *_, last, _ = [line async for line in lines]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")


async def test_client_that_leaves_while_its_prompt_waits_begins_nothing(
    tokenizing: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    generator = FakeGenerator()
    async with running_http(generator, limits=HttpLimits(comment_interval_s=0.01)) as service:
        async with service.http.stream("POST", COMPLETIONS, json={"prompt": "hello", "stream": True}) as response:
            assert await first_event(response) == ": waiting"
        await until(lambda: service.server.num_running == 0)
        tokenizing.set()
        await service.answer(COMPLETIONS, prompt="hello")
    assert len(generator.submitted) == 1
    assert caplog.records == []


async def test_client_that_leaves_while_comments_come_ends_its_work(caplog: pytest.LogCaptureFixture) -> None:
    generator = FakeGenerator(hold_after=0)
    async with running_http(generator, limits=HttpLimits(comment_interval_s=0.01)) as service:
        async with service.http.stream("POST", COMPLETIONS, json={"prompt": "hello", "stream": True}) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == ": waiting"
            await until(lambda: generator.live)  # the first comment may come while its prompt is tokenized
        await until(lambda: not generator.live)
        await until(lambda: service.server.num_running == 0)
    assert len(generator.closed_early) == 1
    assert caplog.records == []


async def test_comments_and_events_begin_a_stream_once() -> None:
    sent: list[str] = []
    client_reads = asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        await until(lambda: sent)  # a comment has begun the stream, and is held up
        yield b"data: 1\n\n"

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])
        asyncio.get_running_loop().call_later(0.05, client_reads.set)
        await client_reads.wait()

    stream = EventStream(at_once(source), lambda error: b"", {}, comment_interval_s=0.001)
    await stream({"type": "http"}, None, send)  # type: ignore[arg-type]  # it reads nothing
    assert sent[0] == "http.response.start"
    assert sent.count("http.response.start") == 1


async def test_error_while_a_comment_begins_the_stream_travels_in_it() -> None:
    """An application such as Starlette's answers an error with a status only if nothing was sent, begun or done."""
    sent: list[MutableMapping[str, Any]] = []
    client_reads, has_failed = asyncio.Event(), asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        await until(lambda: sent)  # a comment begins the stream, and is held up
        has_failed.set()
        raise WorkerUnavailable("the worker is gone")
        yield b""

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)
        await client_reads.wait()

    stream = EventStream(at_once(source), lambda error: str(error).encode(), {}, comment_interval_s=0.001)
    answering = asyncio.create_task(stream({"type": "http"}, None, send))  # type: ignore[arg-type]  # it reads nothing
    await has_failed.wait()
    await asyncio.sleep(0)
    client_reads.set()
    await answering
    assert [message["type"] for message in sent[:2]] == ["http.response.start", "http.response.body"]
    assert sent[-2]["body"] == b"the worker is gone"


@pytest.mark.parametrize("error", [None, WorkerUnavailable("the worker is gone")])
async def test_comment_that_cannot_be_sent_ends_the_stream_and_hides_no_other_error(error: Exception | None) -> None:
    has_failed = asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        await has_failed.wait()
        await asyncio.sleep(0)
        if error:
            raise error
        yield b""

    async def send(message: MutableMapping[str, Any]) -> None:
        has_failed.set()
        raise OSError("no comment")

    stream = EventStream(at_once(source), lambda error: b"", {}, comment_interval_s=0.001)
    with pytest.raises(type(error) if error else OSError):
        await stream({"type": "http"}, None, send)  # type: ignore[arg-type]  # it reads nothing


async def test_unforeseen_error_amid_a_stream_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async with http_app(FakeGenerator(fail_with=ValueError("secret"), fail_after=1)) as service:
        response = await service.post(COMPLETIONS, prompt="hello", stream=True)
    assert json.loads(events_of(response.text)[1])["error"]["message"] == "internal error"
    [record] = caplog.records
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


@pytest.mark.parametrize("stream", [False, True])
async def test_unforeseen_error_before_an_answer_is_logged_once_and_not_told(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_http(FakeGenerator(fail_with=ValueError("secret"))) as service:
        response = await service.post(COMPLETIONS, prompt="hello", stream=stream)
    assert response.status_code == 500
    assert error_of(response)["message"] == "internal error"
    [record] = caplog.records
    assert record.exc_info is not None
    assert response.headers["x-request-id"] in record.getMessage()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_overload_is_told_with_the_time_to_come_back(path: str, stream: bool) -> None:
    generator = FakeGenerator(refuse_with=Overloaded("best-effort", 5, retry_after_s=1.25))
    body = {"messages": USER_SAYS_HI} if path == CHAT else {"prompt": "hello"}
    async with http_app(generator) as service:
        response = await service.post(path, stream=stream, **body)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.headers["retry-after-ms"] == "1250"
    error = error_of(response)
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "5 requests" in error["message"]


async def test_answer_that_does_not_fit_as_a_whole_is_not_begun() -> None:
    class RoomForTwo(FakeGenerator):
        def submit(self, request: object) -> FakeStream:
            if len(self.live) == 2:
                raise Overloaded("latency-sensitive", 2, retry_after_s=1)
            return super().submit(request)  # type: ignore[arg-type]

    generator = RoomForTwo(hold_after=0)
    async with http_app(generator) as service:
        assert (await service.post(COMPLETIONS, prompt="hello", n=3)).status_code == 429
    assert len(generator.submitted) == 2
    assert generator.live == {}


async def test_lost_worker_is_unavailable() -> None:
    async with http_app(FakeGenerator(fail_with=WorkerUnavailable("the worker is gone"))) as service:
        response = await service.post(COMPLETIONS, prompt="hello")
    assert response.status_code == 503
    assert error_of(response)["code"] == "service_unavailable"


async def test_abort_from_elsewhere_ends_the_answer() -> None:
    generator = FakeGenerator(hold_after=2)
    async with http_app(generator) as service:
        asking = asyncio.create_task(service.answer(COMPLETIONS, prompt="hello", return_token_ids=True))
        await until(lambda: any(stream.num_out == 2 for stream in generator.live.values()))
        [request_id] = generator.live
        generator.abort(request_id)
        answer = await asking
    assert answer["id"] == request_id
    assert answer["choices"][0]["finish_reason"] == "abort"
    assert len(answer["choices"][0]["token_ids"]) == 2


@pytest.mark.parametrize("num_choices", [1, 2])
async def test_panic_of_the_tokenizer_amid_a_stream_is_told_there(num_choices: int) -> None:
    model = served_model(tokenizer_json=panicking_tokenizer_json())
    async with running_http(FakeGenerator(model, script=lambda _: [67, 67, 66])) as service:
        response = await service.post(COMPLETIONS, prompt="b", stream=True, n=num_choices)
        assert json.loads(events_of(response.text)[-1])["error"]["message"] == "internal error"
        assert service.generator.live == {}


@pytest.mark.parametrize(
    "owner",
    [
        "scheduler_svc.text.tokenizer.Tokenizer.encode",
        "scheduler_svc.api.text_generation.valid_sampling",
        "scheduler_svc.api.openai.answer.TokenTexts",
    ],
)
async def test_panic_before_an_answer_is_told_as_json(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, Mock(side_effect=Panic("in Rust")))
    async with running_http(FakeGenerator()) as service:
        response = await service.post(COMPLETIONS, prompt="hello")
        assert response.status_code == 500
        assert error_of(response)["message"] == "internal error"
        assert service.generator.live == {}
