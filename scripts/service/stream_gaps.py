"""Measures how long streams stand still: many requests at once, and the longest time between two messages of each.

    python -m scripts.service.stream_gaps 64 128 256 [--address 127.0.0.1:50051] [--best-effort 16]

A pause that all streams share is an iteration; one that only some have is a stream that waits for another one's answer.
"""

import asyncio
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import typer
from qllm import DEFAULT_ADDRESS, AsyncClient, RequestClass
from qllm.client.bench.results.spread import percentile


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream's times in seconds, its first message's counted from when it was asked for."""

    first_s: float
    longest_gap_s: float


async def _stream(client: AsyncClient, prompt: str, num_tokens: int | None, request_class: RequestClass) -> Stream:
    """Reads a whole answer, of `num_tokens` tokens or as many as fit."""
    asked_s = time.perf_counter()
    times_s = [
        time.perf_counter()
        async for _ in client.generate(
            prompt, request_class=request_class, max_tokens=num_tokens, temperature=0, ignore_eos=True
        )
    ]
    gaps_s = [after - before for before, after in pairwise(times_s)]
    return Stream(times_s[0] - asked_s, max(gaps_s, default=0.0))


async def _measure(address: str, num_streams: int, num_best_effort: int, num_words: int, num_tokens: int) -> str:
    async with AsyncClient(address) as client:
        prompts = [f"def f{number}(x): " + "return x " * num_words for number in range(num_streams + num_best_effort)]
        others = [
            asyncio.create_task(_stream(client, prompt, None, RequestClass.BEST_EFFORT))
            for prompt in prompts[num_streams:]
        ]
        began_s = time.perf_counter()
        streams = await asyncio.gather(
            *(_stream(client, p, num_tokens, RequestClass.LATENCY_SENSITIVE) for p in prompts[:num_streams])
        )
        took_s = time.perf_counter() - began_s
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    gaps_ms, firsts_ms = (sorted(getattr(s, name) * 1e3 for s in streams) for name in ("longest_gap_s", "first_s"))
    return (
        f"{num_streams:4} streams: {took_s:.2f} s, longest gap of a stream ms {_middle_and_tail(gaps_ms)} "
        f"max {gaps_ms[-1]:.0f}, first message ms {_middle_and_tail(firsts_ms)}"
    )


def _middle_and_tail(ordered_ms: list[float]) -> str:
    return f"p50 {percentile(ordered_ms, 50):.0f} p99 {percentile(ordered_ms, 99):.0f}"


def stream_gaps(
    streams: Annotated[list[int], typer.Argument(min=1, help="Latency-sensitive requests at once, one round each.")],
    address: Annotated[str, typer.Option(help="The service's gRPC address.")] = DEFAULT_ADDRESS,
    best_effort: Annotated[int, typer.Option(min=0, help="Best-effort requests beside them.")] = 0,
    words: Annotated[int, typer.Option(min=1, help="Length of a prompt, in repeated words.")] = 20,
    tokens: Annotated[int, typer.Option(min=2, help="Length of an answer.")] = 64,
) -> None:
    """Prints, for each number of streams, the total time and how long streams stood still."""
    for num_streams in streams:
        print(asyncio.run(_measure(address, num_streams, best_effort, words, tokens)), flush=True)


if __name__ == "__main__":
    typer.run(stream_gaps)
