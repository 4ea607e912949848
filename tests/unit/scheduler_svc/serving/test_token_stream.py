import asyncio

import pytest

from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.results import TokenOutput
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, Usage
from scheduler_svc.errors import WorkerUnavailable
from scheduler_svc.generation import TokenEvent
from scheduler_svc.serving.fan_out import FanOut
from scheduler_svc.serving.token_stream import BufferedTokenStream

LS = RequestClass.LATENCY_SENSITIVE
USAGE = Usage(3, 2, 0.0, 0.0, 0.0, 0)


def token(token_id: int, reason: FinishReason | None = None) -> TokenOutput:
    return TokenOutput(SeqId(1), token_id, -0.5, reason, USAGE if reason else None)


def stream() -> tuple[BufferedTokenStream, list[FinishReason]]:
    closed: list[FinishReason] = []
    fan_out = FanOut(asyncio.get_running_loop().call_soon)
    return BufferedTokenStream(LS, fan_out, lambda: USAGE, closed.append), closed


async def test_what_a_slow_reader_missed_comes_as_one_event() -> None:
    tokens, _ = stream()
    for token_id in range(3):
        tokens.push(token(token_id))
    tokens.push(token(3, FinishReason.LENGTH))
    events = [event async for event in tokens]
    assert events == [TokenEvent((0, 1, 2, 3), (-0.5,) * 4, FinishReason.LENGTH, USAGE)]


async def test_an_end_that_comes_while_the_reader_holds_an_event_is_not_lost() -> None:
    tokens, _ = stream()
    tokens.push(token(1))
    events = aiter(tokens)
    first = await anext(events)
    tokens.push(token(2, FinishReason.STOP))
    assert first.finish_reason is None
    assert await anext(events) == TokenEvent((2,), (-0.5,), FinishReason.STOP, USAGE)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_an_error_that_comes_while_the_reader_holds_an_event_is_raised_next() -> None:
    tokens, _ = stream()
    tokens.push(token(1))
    events = aiter(tokens)
    await anext(events)
    tokens.push(token(2))
    tokens.fail(WorkerUnavailable("gone"))
    assert (await anext(events)).token_ids == (2,)
    with pytest.raises(WorkerUnavailable, match="gone"):
        await anext(events)


async def test_a_waiting_reader_is_woken_by_the_next_token() -> None:
    tokens, _ = stream()
    reading = asyncio.create_task(anext(aiter(tokens)))
    await asyncio.sleep(0)
    tokens.push(token(9))
    assert (await reading).token_ids == (9,)


async def test_closing_early_ends_the_request_once_and_closing_after_the_end_does_nothing() -> None:
    early, closed = stream()
    early.close()
    early.close(FinishReason.STOP)
    assert closed == [FinishReason.ABORTED]
    ended, closed = stream()
    ended.push(token(1, FinishReason.STOP))
    ended.close()
    assert closed == []
    assert ended.usage() is USAGE
