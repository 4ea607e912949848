"""Clients of both classes: each asks over gRPC, reads as its manner says, and leaves a record of all that it saw."""

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self

import grpc
from qllm.v1 import inference_pb2 as pb
from qllm.v1 import inference_pb2_grpc

from tests.faults.records import PATIENT, Class, Manner, Message, Plan, Record

CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)
_CLASSES = {
    Class.LATENCY_SENSITIVE: pb.REQUEST_CLASS_LATENCY_SENSITIVE,
    Class.BEST_EFFORT: pb.REQUEST_CLASS_BEST_EFFORT,
}
_SALTS = itertools.count()


def message_of(plan: Plan) -> pb.GenerateRequest:
    """Returns the request of a plan, which finds nothing in the cache of what others left there."""
    greedy = pb.SamplingParams(temperature=0)
    seeded = pb.SamplingParams(temperature=1, top_k=50, top_p=0.95, seed=plan.seed)
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=plan.prompt),
        request_class=_CLASSES[plan.request_class],
        sampling=greedy if plan.seed is None else seeded,
        stop=pb.StopConditions(max_tokens=plan.num_tokens, ignore_eos=True),
        cache_salt=f"faults {next(_SALTS)}",
    )


class Clients:
    """Any number of clients of one address, and what they saw.

    Args:
        address: Where they ask.
        on_end: Told of each record when its request has ended or its client has left.

    Attributes:
        records: Every request so far, the oldest first; whoever reads them may clear them.
    """

    def __init__(self, address: str, on_end: Callable[[Record], None] | None = None) -> None:
        self._address = address
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: dict[Record, Any] = {}
        self.records: list[Record] = []

    async def __aenter__(self) -> Self:
        """Opens the channel."""
        self._channel = grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leaves all requests that have not ended, and closes the channel."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    @property
    def open_records(self) -> list[Record]:
        """Requests that have not ended, the oldest first."""
        return list(self._calls)

    def begin(self, plan: Plan, manner: Manner = PATIENT) -> Record:
        """Asks, and returns the record, which fills while the answer comes."""
        record = Record(plan, time.monotonic(), manner)
        self.records.append(record)
        self._keep(self._follow(record))
        return record

    async def ask(self, plan: Plan, manner: Manner = PATIENT) -> Record:
        """Asks, and returns the record when the request has ended."""
        record = Record(plan, time.monotonic(), manner)
        self.records.append(record)
        await self._follow(record)
        return record

    def leave(self, record: Record) -> None:
        """Cancels a request that has not ended."""
        if (call := self._calls.get(record)) is not None:
            record.left = True
            call.cancel()

    async def all_ended(self, bound_s: float) -> bool:
        """Waits until every request that was begun has ended; returns False if that takes longer."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=bound_s)
        return not self._tasks

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, record: Record) -> None:
        call: Any = self._stub.Generate(message_of(record.plan))
        self._calls[record] = call
        try:
            await self._read(call, record)
        except grpc.aio.AioRpcError as error:
            record.status, record.details = error.code().name, error.details() or ""
            record.retry_after_s = _retry_after_s(error.trailing_metadata())
        except asyncio.CancelledError:
            if not record.left:  # whoever waited gave up: the record stays without an end
                call.cancel()
                raise
        else:
            record.status = "OK"
        finally:
            del self._calls[record]
        if record.left:
            record.status = "CANCELLED"
        record.ended_s = time.monotonic()
        if self._on_end is not None:
            self._on_end(record)

    async def _read(self, call: Any, record: Record) -> None:
        manner = record.manner
        async for response in call:
            record.messages.append(_noted(response))
            num_read = len(record.messages)
            if num_read == manner.leaves_after:
                self.leave(record)
                return
            if num_read == 1 and manner.pause_s:
                await asyncio.sleep(manner.pause_s)


def _noted(response: pb.GenerateResponse) -> Message:
    ids = tuple(response.token_ids)
    if not response.HasField("finish"):
        return Message(time.monotonic(), response.sequence_number, ids)
    finish = response.finish
    reason = pb.FinishReason.Name(finish.reason).removeprefix("FINISH_REASON_").lower()
    return Message(time.monotonic(), response.sequence_number, ids, reason, finish.usage.completion_tokens)


def _retry_after_s(metadata: Sequence[tuple[str, str | bytes]] | None) -> float | None:
    """Reads when to come back, as gRPC's own clients do."""
    for key, value in metadata or ():
        if key == "grpc-retry-pushback-ms":
            return float(value) / 1e3
    return None
