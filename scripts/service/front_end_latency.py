"""Measures what HTTP adds to gRPC when nothing else runs: a stream's first event, and an answer that comes at once.

    python -m scripts.service.front_end_latency   # a simulated worker whose work is free: what is left is front ends
    python -m scripts.service.front_end_latency --pairs 1000

Starts a service with both front ends. One request at a time, HTTP and gRPC in turns, each over one connection that
is kept, with the plainest client there is for each, so that no client library is measured beside the service.
Prints medians, and the median of the differences within pairs with its standard error (of 1000 samples drawn again
from the pairs).
"""

import http.client
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import grpc
import typer
from qllm.client.bench.service.interrupts import run_interruptibly
from qllm.client.bench.service.service import ServiceOptions, free_port, running_service
from qllm.v1 import inference_pb2 as pb
from qllm.v1 import inference_pb2_grpc as pb_grpc

_PROMPT = tuple(range(10, 42))
_NUM_WARM_UPS = 20
_NUM_RESAMPLES = 1000
_PAUSE_S = 0.005  # the service is idle again by then


@dataclass(frozen=True, slots=True)
class Times:
    """How long one request took, in milliseconds."""

    first_event_ms: float
    whole_ms: float


class HttpClient:
    """Asks over one kept connection."""

    def __init__(self, port: int, max_tokens: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        fields = {"prompt": _PROMPT, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}
        self._stream = json.dumps({**fields, "stream": True}).encode()
        self._whole = json.dumps(fields).encode()

    def first_event(self) -> None:
        """Reads a stream; returns at its first event."""
        response = self._post(self._stream)
        while not response.readline().startswith(b"data:"):
            pass
        self._unread = response

    def rest(self) -> None:
        """Reads what is left of the stream."""
        self._unread.read()

    def whole(self) -> None:
        """Reads an answer that is no stream."""
        self._post(self._whole).read()

    def _post(self, body: bytes) -> http.client.HTTPResponse:
        self._connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        response = self._connection.getresponse()
        if response.status != http.client.OK:
            raise RuntimeError(f"HTTP {response.status}: {response.read()!r}")
        return response


class GrpcClient:
    """Asks over one channel."""

    def __init__(self, address: str, max_tokens: int) -> None:
        self._stub = pb_grpc.InferenceServiceStub(grpc.insecure_channel(address))
        stop = pb.StopConditions(max_tokens=max_tokens, ignore_eos=True)
        sampling = pb.SamplingParams(temperature=0)
        self._request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=_PROMPT), stop=stop, sampling=sampling)

    def first_event(self) -> None:
        """Reads a stream; returns at its first event."""
        self._unread = self._stub.Generate(self._request)
        next(self._unread)

    def rest(self) -> None:
        """Reads what is left of the stream."""
        for _ in self._unread:
            pass

    def whole(self) -> None:
        """Reads a stream to its end: gRPC has no other answer."""
        for _ in self._stub.Generate(self._request):
            pass


def _times(client: HttpClient | GrpcClient) -> Times:
    first_ms = _took_ms(client.first_event)
    client.rest()
    time.sleep(_PAUSE_S)
    whole_ms = _took_ms(client.whole)
    time.sleep(_PAUSE_S)
    return Times(first_ms, whole_ms)


def _took_ms(act: Callable[[], None]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1e3


def _standard_error(differences: list[float]) -> float:
    chance = random.Random(0)
    medians = [statistics.median(chance.choices(differences, k=len(differences))) for _ in range(_NUM_RESAMPLES)]
    return statistics.stdev(medians)


def _report(name: str, over_http: list[float], over_grpc: list[float]) -> None:
    differences = [one - other for one, other in zip(over_http, over_grpc, strict=True)]
    difference, error = statistics.median(differences), _standard_error(differences)
    http_ms, grpc_ms = statistics.median(over_http), statistics.median(over_grpc)
    print(f"{name:12} HTTP {http_ms:6.2f} ms   gRPC {grpc_ms:6.2f} ms   HTTP is {difference:+.2f} ± {error:.2f} ms")


async def _measure(model: str, num_pairs: int, max_tokens: int, worker_options: list[str]) -> None:
    port = free_port()
    service = ServiceOptions(model, scheduler=("--http-port", str(port)), worker=tuple(worker_options))
    async with running_service(service) as address:
        clients = HttpClient(port, max_tokens), GrpcClient(address, max_tokens)
        for _ in range(_NUM_WARM_UPS):
            for one in clients:
                _times(one)
        pairs = []
        for number in range(num_pairs):
            order = clients if number % 2 else clients[::-1]
            taken = [_times(one) for one in order]
            pairs.append(taken if number % 2 else taken[::-1])
    over_http, over_grpc = ([pair[index] for pair in pairs] for index in (0, 1))
    _report("first event", [one.first_event_ms for one in over_http], [one.first_event_ms for one in over_grpc])
    _report("whole answer", [one.whole_ms for one in over_http], [one.whole_ms for one in over_grpc])


def front_end_latency(
    pairs: Annotated[int, typer.Option(min=2, help="How many times both are asked.")] = 300,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one request.")] = 16,
    model: Annotated[str, typer.Option(help="Directory with a tokenizer.")] = "demo/model",
    worker_option: Annotated[
        list[str] | None, typer.Option(help="An argument of the worker in place of a free one; may be repeated.")
    ] = None,
) -> None:
    """Prints the time to the first event and to the whole answer over HTTP and gRPC, and the difference."""
    options = worker_option or ["--simulated", "zero"]
    run_interruptibly(lambda _: _measure(model, pairs, max_tokens, options))


if __name__ == "__main__":
    typer.run(front_end_latency)
