"""Measures prefill and decode steps of servers that are all up, in turns, so that what else the machine does meets them alike.

    python -m scripts.step_times http://127.0.0.1:8203 http://127.0.0.1:8204 --rounds 6

Any servers of OpenAI's completions API that stream and take token ids. Prompts are random, so that no cache of prefixes helps.
The decode step of a batch is the mean gap between tokens while all of it decodes.
"""

import json
import random
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer

_TIMEOUT_S = 120.0
_FIRST_ID = 5  # below are special tokens
_DECODE_PROMPT, _DECODE_TOKENS = 100, 40


def _model(server: str) -> str:
    with urllib.request.urlopen(f"{server}/v1/models", timeout=_TIMEOUT_S) as response:
        name: str = json.load(response)["data"][0]["id"]
    return name


def _token_times_s(server: str, model: str, prompt: Sequence[int], max_tokens: int) -> list[float]:
    """Seconds from a request to each of its tokens, first the time at which it was sent."""
    body = {"model": model, "prompt": list(prompt), "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(
        f"{server}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    times_s = [time.perf_counter()]
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            times_s += [time.perf_counter() for line in response if line.startswith(b"data: {")]
    except urllib.error.HTTPError as error:
        raise typer.BadParameter(f"{server} answered {error.code}: {error.read().decode(errors='replace')}") from error
    if len(times_s) < 2:
        raise typer.BadParameter(f"{server} streamed no token")
    return times_s


class Server:
    """A server under test, with the milliseconds that each kind of step took."""

    def __init__(self, url: str, vocab_size: int) -> None:
        self.url = url.rstrip("/")
        self._model = _model(self.url)
        self._vocab_size = vocab_size
        self._chance = random.Random(self.url)
        self.times_ms: dict[str, list[float]] = {}

    def time_prefill(self, num_tokens: int) -> None:
        """Times the first token of one prompt."""
        sent_s, first_s, *_ = self._request(num_tokens, 1)
        self._note(f"prefill {num_tokens}", first_s - sent_s)

    def time_decode(self, batch_size: int) -> None:
        """Times the decode steps of so many requests at once."""
        with ThreadPoolExecutor(batch_size) as pool:
            requests = [pool.submit(self._request, _DECODE_PROMPT, _DECODE_TOKENS) for _ in range(batch_size)]
            tokens_s = [request.result()[1:] for request in requests]
        begin_s, end_s = max(times[0] for times in tokens_s), min(times[-1] for times in tokens_s)
        num_steps = statistics.mean(sum(begin_s <= at_s <= end_s for at_s in times) for times in tokens_s) - 1
        self._note(f"decode {batch_size}", (end_s - begin_s) / max(1.0, num_steps))

    def _request(self, num_tokens: int, max_tokens: int) -> list[float]:
        prompt = [self._chance.randrange(_FIRST_ID, self._vocab_size) for _ in range(num_tokens)]
        return _token_times_s(self.url, self._model, prompt, max_tokens)

    def _note(self, what: str, seconds: float) -> None:
        self.times_ms.setdefault(what, []).append(seconds * 1e3)


def step_times(
    url: Annotated[list[str], typer.Argument(help="Servers, the first of which the others are compared with.")],
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 6,
    prefill: Annotated[list[int] | None, typer.Option(min=1, help="Tokens of prompts. [default: 80, 1024]")] = None,
    vocab_size: Annotated[int, typer.Option(min=16, help="Token ids of prompts stay below.")] = 8_000,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Decode batches. [default: 1, 2, 8, 16]")] = None,
) -> None:
    """Prints the median time of each kind of step on each server, and its ratio to the first one's."""
    servers = [Server(each, vocab_size) for each in url]
    for _ in range(rounds):
        for server in servers:
            for num_tokens in prefill or (80, 1024):
                server.time_prefill(num_tokens)
            for batch_size in batch or (1, 2, 8, 16):
                server.time_decode(batch_size)
    for what in servers[0].times_ms:
        medians_ms = [statistics.median(server.times_ms[what]) for server in servers]
        print(f"{what:13}", "  ".join(f"{ms:8.1f} ms ({ms / medians_ms[0]:.2f}x)" for ms in medians_ms))


if __name__ == "__main__":
    typer.run(step_times)
