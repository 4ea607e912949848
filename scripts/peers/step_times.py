"""Measures prefill and decode steps of servers that are all up, in turns, so that other load meets them alike.

    python -m scripts.peers.step_times http://127.0.0.1:8203 http://127.0.0.1:8204 --rounds 6

Any servers of OpenAI's completions API that stream and take token ids. Prompts are random and differ from run to run,
so that no cache of prefixes helps. The decode step of a batch is the mean gap between tokens while all of it decodes.
"""

import asyncio
import statistics
import time
from contextlib import aclosing
from typing import Annotated

import typer
from qllm.client.bench.errors import RequestFailed, TargetFailed
from qllm.client.bench.load.http_target import HttpDialect, HttpTarget, PriorityField
from qllm.client.bench.load.prompts import PromptForm, Prompts
from qllm.client.bench.load.target import Ask, Chunk
from qllm.client.bench.load.workload import LS

_DECODE_PROMPT, _DECODE_TOKENS = 100, 40
_PAUSE_S = 1.0  # before a server's turn: threads of the last one may still spin


class Server:
    """A server under test, with the milliseconds that each kind of step took."""

    def __init__(self, url: str, vocab_size: int, seed: int) -> None:
        self.target = HttpTarget(url, model=None, dialect=HttpDialect(priority_field=PriorityField.NONE))
        self._prompts = Prompts(PromptForm.TOKENS, vocab_size, seed)
        self._num_asked = 0
        self.times_ms: dict[str, list[float]] = {}

    async def time_prefill(self, num_tokens: int) -> None:
        """Times the first token of one prompt."""
        began_s = time.perf_counter()
        first_s, *_ = await self._token_times_s(num_tokens, 1)
        self._note(f"prefill {num_tokens}", first_s - began_s)

    async def time_decode(self, batch_size: int) -> None:
        """Times the decode steps of so many requests at once."""
        requests = [self._token_times_s(_DECODE_PROMPT, _DECODE_TOKENS) for _ in range(batch_size)]
        tokens_s = await asyncio.gather(*requests)
        begin_s, end_s = max(times[0] for times in tokens_s), min(times[-1] for times in tokens_s)
        num_steps = statistics.mean(sum(begin_s <= at_s <= end_s for at_s in times) for times in tokens_s) - 1
        self._note(f"decode {batch_size}", (end_s - begin_s) / max(1.0, num_steps))

    async def _token_times_s(self, num_tokens: int, max_tokens: int) -> list[float]:
        """When each token of one request came."""
        self._num_asked += 1
        ask = Ask(LS, self._prompts.draw(LS, self._num_asked, num_tokens), max_tokens)
        async with aclosing(self.target.stream(ask)) as stream:
            return [time.perf_counter() async for item in stream if isinstance(item, Chunk)]

    def _note(self, what: str, seconds: float) -> None:
        self.times_ms.setdefault(what, []).append(seconds * 1e3)


async def _measure(servers: list[Server], rounds: int, prefills: list[int], batch_sizes: list[int]) -> None:
    for server in servers:
        await server.target.prepare()
    for _ in range(rounds):
        for server in servers:
            await asyncio.sleep(_PAUSE_S)
            for num_tokens in prefills:
                await server.time_prefill(num_tokens)
            for batch_size in batch_sizes:
                await server.time_decode(batch_size)
    for server in servers:
        await server.target.close()


def step_times(
    url: Annotated[list[str], typer.Argument(help="Servers, the first of which the others are compared with.")],
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 6,
    prefill: Annotated[list[int] | None, typer.Option(min=1, help="Tokens of prompts. [default: 80, 1024]")] = None,
    vocab_size: Annotated[int, typer.Option(min=16, help="Token ids of prompts stay below.")] = 8_000,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Decode batches. [default: 1, 2, 8, 16]")] = None,
) -> None:
    """Prints the median time of each kind of step on each server, and its ratio to the first one's."""
    seed = time.time_ns()
    servers = [Server(each, vocab_size, seed) for each in url]
    try:
        asyncio.run(_measure(servers, rounds, prefill or [80, 1024], batch or [1, 2, 8, 16]))
    except (TargetFailed, RequestFailed) as error:
        raise typer.BadParameter(str(error)) from error
    for what in servers[0].times_ms:
        medians_ms = [statistics.median(server.times_ms[what]) for server in servers]
        print(f"{what:13}", "  ".join(f"{ms:8.1f} ms ({ms / medians_ms[0]:.2f}x)" for ms in medians_ms))


if __name__ == "__main__":
    typer.run(step_times)
