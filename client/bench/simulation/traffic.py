"""Traffic for the simulator: rows of (arrival in seconds, class, prompt tokens, output tokens), fixed by a seed. Pure.

Without a trace, arrivals are Poisson and lengths are ShareGPT-like: log-normal, with the means that Kwon et al.
(SOSP 2023, figure 11) give for ShareGPT, 161 tokens in and 338 out, and outputs cut at a limit, as a server's
`max_tokens` does. Clients that never pause have no rows: the simulator lets them ask again when they are answered.
"""

import math
import random
from dataclasses import dataclass, replace

from qllm.client.bench.load.trace import Trace
from qllm.client.bench.load.workload import LS, split
from qllm.client.messages import RequestClass

Row = tuple[float, str, int, int]

MAX_PROMPT_TOKENS = 8192
_PROMPT_MEAN, _PROMPT_SIGMA = 161.0, 1.1
_OUTPUT_MEAN, _OUTPUT_SIGMA = 338.0, 0.9
_MIN_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Mix:
    """Random traffic.

    Attributes:
        rate_per_s: Mean arrivals of both classes together.
        seconds: How long requests arrive; they are served to the last one.
        ls_share: Share of latency-sensitive requests, chosen at random.
        max_output_tokens: Where outputs are cut.
        be_prompt_tokens: Length of every best-effort prompt; None: ShareGPT-like.
        seed: Fixes everything. Arrivals, classes and lengths do not change with each other's settings.
    """

    rate_per_s: float = 4.0
    seconds: float = 120.0
    ls_share: float = 0.2
    max_output_tokens: int = 100
    be_prompt_tokens: int | None = None
    seed: int = 0

    def rows(self) -> list[Row]:
        """Returns the requests in the order of their arrivals."""
        times, classes, lengths = (random.Random(f"{self.seed} {what}") for what in ("times", "classes", "lengths"))
        rows: list[Row] = []
        at_s = times.expovariate(self.rate_per_s)
        while at_s < self.seconds:
            is_ls = classes.random() < self.ls_share
            prompt = _draw(lengths, _PROMPT_MEAN, _PROMPT_SIGMA, MAX_PROMPT_TOKENS)
            output = _draw(lengths, _OUTPUT_MEAN, _OUTPUT_SIGMA, self.max_output_tokens)
            if not is_ls and self.be_prompt_tokens is not None:
                prompt = self.be_prompt_tokens
            rows.append((round(at_s, 6), "ls" if is_ls else "be", prompt, output))
            at_s += times.expovariate(self.rate_per_s)
        return rows

    def describe(self, varied: str | None = None) -> str:
        """Returns one line; what is varied is left out, by the name of the axis."""
        rate = "" if varied == "rate" else f" at {self.rate_per_s:g}/s"
        share = "" if varied == "ls-share" else f", {self.ls_share:.0%} latency-sensitive"
        prompts = "" if self.be_prompt_tokens is None else f", best-effort prompts of {self.be_prompt_tokens} tokens"
        outputs = f"ShareGPT-like lengths, outputs cut at {self.max_output_tokens} tokens"
        return f"Poisson arrivals{rate} for {self.seconds:g} s{share}, {outputs}{prompts}"


@dataclass(frozen=True, slots=True)
class ReplayedTrace:
    """A trace, its times multiplied by `time_scale`, its requests given to the classes at random."""

    trace: Trace
    name: str
    time_scale: float = 1.0
    ls_share: float = 0.2
    seed: int = 0

    def rows(self) -> list[Row]:
        """Returns the requests in the order of their arrivals."""
        parts = split(self.trace, self.ls_share, self.seed)
        return sorted(
            (round(row.at_s * self.time_scale, 6), _name(request_class), row.num_prompt_tokens, row.num_output_tokens)
            for request_class, part in parts.items()
            for row in part.rows
        )

    def describe(self, varied: str | None = None) -> str:
        """Returns one line; what is varied is left out, by the name of the axis."""
        share = "" if varied == "ls-share" else f", {self.ls_share:.0%} latency-sensitive"
        return f"{self.name}, times multiplied by {self.time_scale:g}{share}"


@dataclass(frozen=True, slots=True)
class MixedLoad:
    """Latency-sensitive requests at random times beside best-effort clients that never pause.

    Attributes:
        ls_rate_per_s: Mean arrivals of latency-sensitive requests, from the start to the end of the window.
        num_be_clients: Clients that each ask again when they are answered.
        be_prompt_tokens: Mean length of their prompts, which are up to 20 % shorter or longer.
        warm_up_s: Seconds of load before the window in which throughput is counted.
        seconds: Length of the window.
        seed: Fixes arrivals and lengths.
    """

    num_be_clients: int = 8
    be_prompt_tokens: int = 1100
    be_output_tokens: int = 64
    ls_rate_per_s: float = 0.7
    ls_prompt_tokens: int = 80
    ls_output_tokens: int = 16
    warm_up_s: float = 5.0
    seconds: float = 120.0
    seed: int = 0

    def rows(self) -> list[Row]:
        """Returns the latency-sensitive requests in the order of their arrivals."""
        times, until_s = random.Random(f"ls {self.seed}"), self.warm_up_s + self.seconds
        rows: list[Row] = []
        at_s = times.expovariate(self.ls_rate_per_s)
        while at_s < until_s:
            rows.append((round(at_s, 6), "ls", self.ls_prompt_tokens, self.ls_output_tokens))
            at_s += times.expovariate(self.ls_rate_per_s)
        return rows

    def closed_loop(self) -> dict[str, object]:
        """Returns the clients as the simulator's job describes them."""
        return {
            "num_clients": self.num_be_clients,
            "num_prompt_tokens": self.be_prompt_tokens,
            "num_output_tokens": self.be_output_tokens,
            "from_s": self.warm_up_s,
            "until_s": self.warm_up_s + self.seconds,
            "seed": self.seed,
        }

    def describe(self, varied: str | None = None) -> str:
        """Returns one line; what is varied is left out, by the name of the axis."""
        rate = "at random times" if varied == "rate" else f"at {self.ls_rate_per_s:g}/s"
        prompts = "" if varied == "be-prompt" else f"{self.be_prompt_tokens:,} + "
        return (
            f"latency-sensitive requests of {self.ls_prompt_tokens} + {self.ls_output_tokens} tokens {rate} for "
            f"{self.seconds:g} s beside {self.num_be_clients} best-effort clients of {prompts}{self.be_output_tokens}"
        )


Traffic = Mix | ReplayedTrace | MixedLoad


def with_share(traffic: Mix | ReplayedTrace, ls_share: float) -> Traffic:
    """Returns the same traffic with another share of latency-sensitive requests."""
    return replace(traffic, ls_share=ls_share)


def _draw(chance: random.Random, mean: float, sigma: float, limit: int) -> int:
    """Draws a log-normal length with this mean before it is cut."""
    tokens = chance.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)
    return max(_MIN_TOKENS, min(limit, round(tokens)))


def _name(request_class: RequestClass) -> str:
    return "ls" if request_class is LS else "be"
