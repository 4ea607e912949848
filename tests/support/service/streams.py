"""Streams of a real service, read to their ends, and blows that fall into them."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from qllm.v1 import inference_pb2 as pb

from tests.support.service.live_service import LiveService

LONG_S = 300.0
NUM_STREAMS = 16


def request(number: int, max_tokens: int, *, seed: int | None = None) -> pb.GenerateRequest:
    """One of both classes, by turns; greedy without a seed."""
    sampling = pb.SamplingParams(temperature=0) if seed is None else pb.SamplingParams(temperature=1, seed=seed)
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=range(10 + number, 50 + 2 * number)),
        request_class=pb.REQUEST_CLASS_BEST_EFFORT if number % 2 else pb.REQUEST_CLASS_LATENCY_SENSITIVE,
        sampling=sampling,
        stop=pb.StopConditions(max_tokens=max_tokens, ignore_eos=True),
    )


def requests(max_tokens: int) -> list[pb.GenerateRequest]:
    return [request(n, max_tokens, seed=n if n % 3 == 0 else None) for n in range(NUM_STREAMS)]


def tokens_of(service: LiveService, channel: grpc.Channel, asked: pb.GenerateRequest, started: list[int]) -> list[int]:
    """Reads a stream to its end; each message must follow the one before it. Notes each message in `started`."""
    token_ids: list[int] = []
    for number, message in enumerate(service.inference(channel).Generate(asked, timeout=LONG_S)):
        assert message.sequence_number == number
        token_ids += message.token_ids
        started.append(number)
    return token_ids


def all_tokens(service: LiveService, asked: list[pb.GenerateRequest], started: list[int]) -> list[list[int]]:
    with service.channel() as channel, ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda one: tokens_of(service, channel, one, started), asked))


def until(is_true: Callable[[], object]) -> float:
    """Waits for what another process does; returns for how long, in seconds."""
    began_s = time.monotonic()
    while not is_true():
        assert time.monotonic() - began_s < LONG_S
        time.sleep(0.01)
    return time.monotonic() - began_s


def streams_over(service: LiveService, asked: list[pb.GenerateRequest], blow: Callable[[], object]) -> list[list[int]]:
    """Returns the tokens of streams into which `blow` falls once some have begun."""
    started: list[int] = []
    results: list[list[list[int]]] = []
    reader = threading.Thread(target=lambda: results.append(all_tokens(service, asked, started)))
    reader.start()
    until(lambda: len(started) > len(asked))
    blow()
    reader.join(LONG_S)
    assert results, service.log.read_text()[-4000:]
    return results[0]
