"""Measures what a scheduler's ways cost where nobody is in a hurry: the same job on services that are all up, in turns.

    python -m scripts.service.control_overhead DIR --scheduler=--policy=fcfs --scheduler=--policy=qllm

The job is a number of best-effort requests, one for each client at a time; its time counts from the first request to
the last token. A window of a closed loop would not do: clients that begin together stay together, and a window of a
few turns holds more of their prompts or more of their outputs. In turns, because a machine's minutes differ by more
than schedulers.
"""

import asyncio
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Annotated

import typer
from qllm import AsyncClient, GenerateOptions, QllmError
from qllm.client.bench.errors import ServiceFailed
from qllm.client.bench.load.prompts import PromptForm, Prompts
from qllm.client.bench.load.workload import BE
from qllm.client.bench.service.service import ServiceOptions, running_service

_PAUSE_S = 0.5  # before a service's turn: threads of the last one may still spin


@dataclass(frozen=True, slots=True)
class Job:
    """What every service does in each of its turns."""

    num_clients: int
    num_requests: int
    num_prompt_tokens: int
    max_tokens: int

    async def run(self, client: AsyncClient, prompts: Prompts) -> float:
        """Runs it and returns the seconds that it took."""
        indices = range(self.num_clients * self.num_requests)
        drawn = [prompts.draw(BE, index, self.num_prompt_tokens) for index in indices]
        options = GenerateOptions(request_class=BE, max_tokens=self.max_tokens, ignore_eos=True, temperature=0.0)
        began_s = time.perf_counter()
        await client.generate_all(drawn, max_concurrency=self.num_clients, **options)
        return time.perf_counter() - began_s


@dataclass(slots=True)
class Variant:
    """A service under test, with the seconds of its turns."""

    arguments: tuple[str, ...]
    client: AsyncClient
    seconds: list[float] = field(default_factory=list)


async def _measure(model: str, arguments: Sequence[str], job: Job, rounds: int) -> list[Variant]:
    """Starts all, one after another, and lets them take turns, every other round backwards, after one for warmth."""
    async with AsyncExitStack() as stack:
        variants = []
        for words in (tuple(each.split()) for each in arguments):
            address = await stack.enter_async_context(running_service(ServiceOptions(model, scheduler=words)))
            variants.append(Variant(words, await stack.enter_async_context(AsyncClient(address))))
        vocab_size = (await variants[0].client.server_info()).model.vocab_size
        for i in range(rounds + 1):
            for variant in variants if i % 2 else reversed(variants):
                await asyncio.sleep(_PAUSE_S)
                variant.seconds.append(await job.run(variant.client, Prompts(PromptForm.TOKENS, vocab_size, seed=i)))
            if i:
                typer.echo("  ".join(f"{variant.seconds[-1]:6.2f} s" for variant in variants))
        for variant in variants:
            del variant.seconds[0]
    return variants


def control_overhead(
    model: Annotated[str, typer.Argument(help="Model that all serve.")],
    scheduler: Annotated[
        list[str],
        typer.Option(help="Arguments of a service's scheduler, once for each; others are compared with the first."),
    ],
    rounds: Annotated[int, typer.Option(min=1, help="How many turns each takes.")] = 12,
    clients: Annotated[int, typer.Option(min=1, help="Best-effort requests at a time.")] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Requests for each of them, in all.")] = 2,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 1_100,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each output.")] = 64,
) -> None:
    """Prints each turn's seconds, throughput as a ratio to the first service's: mean over rounds and standard error."""
    job = Job(clients, requests, prompt_tokens, max_tokens)
    num_tokens = clients * requests * max_tokens
    try:
        first, *others = variants = asyncio.run(_measure(model, scheduler, job, rounds))
    except (ServiceFailed, QllmError) as error:
        raise typer.BadParameter(str(error)) from error
    for variant in variants:
        rate = num_tokens / statistics.mean(variant.seconds)
        typer.echo(f"{' '.join(variant.arguments)}: {rate:.1f} output tokens/s")
    for variant in others:
        ratios = [mine / its for mine, its in zip(first.seconds, variant.seconds, strict=True)]
        spread = statistics.stdev(ratios) / math.sqrt(rounds) if rounds > 1 else math.nan
        typer.echo(
            f"{' '.join(variant.arguments)}: {statistics.mean(ratios):.3f} +- {spread:.3f} "
            f"of {' '.join(first.arguments)}"
        )


if __name__ == "__main__":
    typer.run(control_overhead)
