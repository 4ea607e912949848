"""The client for programs without asyncio: a thin face on `AsyncClient`, which runs on an event loop in a thread."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from qllm.client.access import AccessOptions
from qllm.client.async_client import DEFAULT_ADDRESS, AsyncClient, Draining, Loads, ServerInfo
from qllm.client.batches import Batch, BatchItem, BatchPage, BatchResult
from qllm.client.messages import Delta, GenerateOptions, GenerationResult, Prompt
from qllm.client.stream import GenerationStream

T = TypeVar("T")


class Client:
    """Talks to one QLLM service, blocking; the same calls, options and errors as `AsyncClient`.

        with Client("127.0.0.1:50051") as client:
            for delta in client.generate("def main():", max_tokens=32):
                print(delta.text, end="", flush=True)

    May be used from several threads at once.
    """

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, timeout_s: float | None = 10.0, **access: Unpack[AccessOptions]
    ) -> None:
        self._loop = _LoopThread()
        try:
            self._client = self._loop.run(_make(address, timeout_s, access))
        except BaseException:
            self._loop.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the channel and ends the thread; streams that still run are cancelled on the server."""
        if self._loop.is_running:
            self._loop.run(self._client.close())
            self._loop.stop()

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> "SyncGenerationStream":
        """Sends one request and returns the stream of its tokens; see `AsyncClient.generate`."""

        async def send() -> GenerationStream:
            return self._client.generate(prompt, **options)

        return SyncGenerationStream(self._loop, self._loop.run(send()))

    def generate_all(
        self, prompts: Iterable[Prompt], *, max_concurrency: int = 16, **options: Unpack[GenerateOptions]
    ) -> list[GenerationResult]:
        """Generates from many prompts and returns the results in their order; see `AsyncClient.generate_all`."""
        return self._loop.run(self._client.generate_all(prompts, max_concurrency=max_concurrency, **options))

    def abort(self, request_id: str) -> bool:
        """Ends a running or queued request of any connection; returns False if none has the id."""
        return self._loop.run(self._client.abort(request_id))

    def create_batch(
        self,
        items: Iterable[BatchItem],
        *,
        idempotency_key: str | None = None,
        metadata: Mapping[str, str] | None = None,
        completion_window_s: float | None = None,
    ) -> Batch:
        """Creates a durable job of many requests; see `AsyncClient.create_batch`."""
        creating = self._client.create_batch(
            items, idempotency_key=idempotency_key, metadata=metadata, completion_window_s=completion_window_s
        )
        return self._loop.run(creating)

    def get_batch(self, batch_id: str) -> Batch:
        """Returns a job as it stands; ServerError with NOT_FOUND if there is none."""
        return self._loop.run(self._client.get_batch(batch_id))

    def list_batches(self, *, page_size: int | None = None, page_token: str = "") -> BatchPage:
        """Returns a page of jobs, newest first; its `next_page_token` asks for the next one."""
        return self._loop.run(self._client.list_batches(page_size=page_size, page_token=page_token))

    def batch_results(self, batch_id: str, *, from_position: int = 0, follow: bool = False) -> Iterator[BatchResult]:
        """Yields the results of a job's items that have ended; see `AsyncClient.batch_results`."""
        return self._loop.iterate(self._client.batch_results(batch_id, from_position=from_position, follow=follow))

    def watch_batch(self, batch_id: str, *, poll_s: float = 0.5) -> Iterator[Batch]:
        """Yields a job as it stands, every `poll_s` seconds, until it has ended; see `AsyncClient.watch_batch`."""
        return self._loop.iterate(self._client.watch_batch(batch_id, poll_s=poll_s))

    def cancel_batch(self, batch_id: str) -> Batch:
        """Cancels a job; see `AsyncClient.cancel_batch`."""
        return self._loop.run(self._client.cancel_batch(batch_id))

    def server_info(self) -> ServerInfo:
        """Returns what is served, how, and within which limits."""
        return self._loop.run(self._client.server_info())

    def loads(self, *, check: bool = False) -> Loads:
        """Returns what is queued and running now, and the counters since the worker connected; see `AsyncClient`."""
        return self._loop.run(self._client.loads(check=check))

    def drain(self, grace_s: float | None = None) -> Draining:
        """Tells the service to stop once the requests that run are over; see `AsyncClient.drain`."""
        return self._loop.run(self._client.drain(grace_s))

    def hand_over(self) -> None:
        """Lets a worker that stands by serve; see `AsyncClient.hand_over`."""
        self._loop.run(self._client.hand_over())

    def health(self) -> bool:
        """Returns whether the service takes requests and has a worker that makes progress."""
        return self._loop.run(self._client.health())


class SyncGenerationStream:
    """An iterator of `Delta`; after the last one, `result` holds the whole. Leaving it early cancels on the server."""

    def __init__(self, loop: "_LoopThread", stream: GenerationStream) -> None:
        self._loop = loop
        self._stream = stream

    @property
    def request_id(self) -> str:
        """The request's id; empty until the first message if the service makes it."""
        return self._stream.request_id

    @property
    def result(self) -> GenerationResult:
        """The whole generation; RuntimeError while the stream has not ended."""
        return self._stream.result

    def cancel(self) -> None:
        """Ends the request on the server; may be called from another thread than the one that reads."""
        self._loop.call_soon(self._stream.cancel)

    def collect(self) -> GenerationResult:
        """Reads to the end and returns the result."""
        return self._loop.run(self._stream.collect())

    def __iter__(self) -> Iterator[Delta]:
        """Yields what each message adds; raises as `GenerationStream` does."""
        deltas = aiter(self._stream)

        async def next_delta() -> Delta | None:
            return await anext(deltas, None)

        try:
            while (delta := self._loop.run(next_delta())) is not None:
                yield delta
        finally:
            self.cancel()


class _LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qllm-client", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop and waits for it; cancels it if the wait is interrupted."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, values: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yields what a generator does on the loop, and closes it there."""

        async def next_one() -> T | None:
            return await anext(values, None)

        try:
            while (value := self.run(next_one())) is not None:
                yield value
        finally:
            self.run(values.aclose())

    def call_soon(self, callback: Any) -> None:
        if self.is_running:
            self._loop.call_soon_threadsafe(callback)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _make(address: str, timeout_s: float | None, access: AccessOptions) -> AsyncClient:
    return AsyncClient(address, timeout_s=timeout_s, **access)
