"""Measures what cancelled streams leave behind: nothing, one hopes, and no wait for those who stay.

    python -m scripts.service.cancel_storm --model demo/model

Starts a service, sends latency-sensitive requests one by one for reference, then does so again while many streams of
both classes come and are cancelled at random moments; at the end every cache block must be free.
"""

import asyncio
import itertools
import random
import sys
from contextlib import suppress
from statistics import fmean
from typing import Annotated

import typer
from qllm import AsyncClient
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.results.spread import percentile
from qllm.client.bench.service.interrupts import run_interruptibly
from qllm.client.bench.service.service import ServiceOptions, running_service

_SALTS = itertools.count()


async def ask_one_by_one(client: AsyncClient, count: int) -> list[float]:
    """Returns the times to first token of short requests, in milliseconds; none finds its prompt in the cache."""
    times_ms = []
    for i in range(count):
        prompt, salt = [10 + (i + j) % 500 for j in range(40)], f"apart {next(_SALTS)}"
        generation = client.generate(
            prompt, request_class=LS, max_tokens=8, temperature=0, ignore_eos=True, cache_salt=salt
        )
        result = await generation.collect()
        times_ms.append((result.ttft_s or result.e2e_s) * 1e3)
        await asyncio.sleep(0.02)
    return times_ms


async def start_and_cancel(client: AsyncClient, seed: int, ls_share: float) -> None:
    """Starts a long stream and leaves it at a random moment, which may be before its first token."""
    chance = random.Random(seed)
    await asyncio.sleep(chance.random() * 4)
    prompt = [chance.randrange(10, 1000) for _ in range(chance.randint(1, 600))]
    options = {"request_class": LS if chance.random() < ls_share else BE, "max_tokens": 400, "ignore_eos": True}
    with suppress(TimeoutError):
        async with asyncio.timeout(chance.random() * 2):
            await client.generate(prompt, **options).collect()  # type: ignore[arg-type]


async def storm(model: str, num_streams: int, ls_share: float, worker_args: list[str]) -> bool:
    """Runs both rounds and prints them; returns whether every block came back."""
    options = ServiceOptions(model, worker=tuple(worker_args))
    async with running_service(options) as address, AsyncClient(address) as client:
        await ask_one_by_one(client, 5)
        idle_ms = await ask_one_by_one(client, 60)
        streams = asyncio.gather(*(start_and_cancel(client, seed, ls_share) for seed in range(num_streams)))
        during_ms = await ask_one_by_one(client, 60)
        await streams
        await ask_one_by_one(client, 1)
        loads = await client.loads()
    idle, during = _mean_and_p99(idle_ms), _mean_and_p99(during_ms)
    print(f"LS TTFT idle      mean {idle[0]:.1f} ms, p99 {idle[1]:.1f} ms")
    print(f"LS TTFT in storm  mean {during[0]:.1f} ms, p99 {during[1]:.1f} ms: {during[0] / idle[0]:.2f}x")
    print(f"blocks free       {loads.free_blocks} of {loads.total_blocks} after {num_streams} cancelled streams")
    return loads.free_blocks == loads.total_blocks


def _mean_and_p99(times_ms: list[float]) -> tuple[float, float]:
    return fmean(times_ms), percentile(sorted(times_ms), 99)


def cancel_storm(
    model: Annotated[str, typer.Option(help="Directory or hub id.")] = "demo/model",
    streams: Annotated[int, typer.Option(min=1, help="Streams to cancel.")] = 200,
    ls_share: Annotated[float, typer.Option(min=0, max=1, help="Share of them that is latency-sensitive.")] = 0.25,
    worker_arg: Annotated[list[str] | None, typer.Option(help="An argument for the worker; may be repeated.")] = None,
) -> None:
    """Cancels many streams at random moments; exit code 1 if a block is lost."""
    is_whole, _ = run_interruptibly(lambda _: storm(model, streams, ls_share, worker_arg or []))
    sys.exit(0 if is_whole else 1)


if __name__ == "__main__":
    typer.run(cancel_storm)
