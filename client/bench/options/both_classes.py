"""The options of a load of both classes, of which the best-effort clients are as many as a command finds out itself."""

from dataclasses import dataclass
from typing import Annotated

from qllm.client.bench.load.workload import Lengths, Poisson
from qllm.settings import Setting

LOAD = "Who asks, and how much"


@dataclass(frozen=True, slots=True)
class BothClasses:
    """How often latency-sensitive requests come, and how long those of both classes are."""

    ls_rate: Annotated[
        float,
        Setting(0.001, 100_000, metavar="PER_SECOND", panel=LOAD),
        "Sends so many latency-sensitive requests a second, at random times (Poisson).",
    ] = 0.7
    ls_prompt_tokens: Annotated[
        int,
        Setting(1, panel=LOAD),
        "Sets how many tokens the prompt of a latency-sensitive request has.",
    ] = 80
    ls_max_tokens: Annotated[
        int,
        Setting(2, panel=LOAD),
        "Sets how many tokens a latency-sensitive request asks for.",
    ] = 16
    be_prompt_tokens: Annotated[
        int,
        Setting(1, panel=LOAD),
        "Sets how many tokens the prompt of a best-effort request has.",
    ] = 1100
    be_max_tokens: Annotated[
        int,
        Setting(1, panel=LOAD),
        "Sets how many tokens a best-effort request asks for.",
    ] = 64

    @property
    def ls_lengths(self) -> Lengths:
        """Lengths of latency-sensitive requests."""
        return Lengths(self.ls_prompt_tokens, self.ls_max_tokens)

    @property
    def be_lengths(self) -> Lengths:
        """Lengths of best-effort requests."""
        return Lengths(self.be_prompt_tokens, self.be_max_tokens)

    def ls_arrivals(self, seed: int) -> Poisson:
        """Returns when latency-sensitive requests come."""
        return Poisson(self.ls_rate, self.ls_lengths, f"ls {seed}")
