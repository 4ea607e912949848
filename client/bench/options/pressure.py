"""The options of a load that wants more memory than there is: who asks, how much, and for how long."""

import math
from dataclasses import dataclass
from typing import Annotated

from qllm.client.bench.errors import TargetFailed
from qllm.client.bench.load.memory.comparing_target import FewPrompts
from qllm.client.bench.load.prompts import PromptForm, Prompts
from qllm.client.bench.load.run import Plan
from qllm.client.bench.load.target import TargetFacts
from qllm.client.bench.load.workload import BE, LS, Crowd, Until
from qllm.client.bench.options.both_classes import LOAD, BothClasses
from qllm.settings import Setting

_MEASURING = "Measuring"
_MAX_IN_FLIGHT = 65_536


@dataclass(frozen=True, slots=True)
class PressureOptions(BothClasses):
    """The load, and how long it goes on."""

    demand: Annotated[
        float,
        Setting(0.01, 10_000, metavar="X", panel=LOAD),
        "Sends so many best-effort requests at a time that their prompts and outputs together have so many times the "
        "tokens that the cache holds. Each that ends is followed by the next.",
    ] = 10.0
    prompts: Annotated[
        int,
        Setting(1, 4096, panel=LOAD),
        "Cycles through so many different prompts of each class. Each is asked alone first, and all later answers to "
        "it are compared with that one.",
    ] = 24
    seed: Annotated[
        int,
        Setting(panel=LOAD),
        "Fixes what is random: the times of requests, and prompts.",
    ] = 0
    seconds: Annotated[
        float,
        Setting(0.1, is_finite=True, metavar="SECONDS", panel=_MEASURING),
        "Sets how long the load is measured.",
    ] = 600.0
    warm_up: Annotated[
        float,
        Setting(0, is_finite=True, metavar="SECONDS", panel=_MEASURING),
        "Sets how long the load runs before that.",
    ] = 10.0
    drain: Annotated[
        float,
        Setting(0, is_finite=True, metavar="SECONDS", panel=_MEASURING),
        "Limits how long the requests that are under way then have to end. Nobody sends new ones meanwhile.",
    ] = 1800.0
    idle_requests: Annotated[
        int,
        Setting(1, panel=_MEASURING),
        "Sends so many latency-sensitive requests, one after another, to the idle server before the load begins.",
    ] = 50

    def num_be_clients(self, facts: TargetFacts) -> int:
        """Returns how many best-effort requests want that many times the blocks that the cache has.

        Raises:
            TargetFailed: The service does not tell how large its cache is.
        """
        if not facts.num_blocks or not facts.block_size:
            raise TargetFailed(f"the service at {facts.address} does not tell how many blocks its cache has")
        return math.ceil(self.demand * facts.num_blocks / self.num_blocks_each(facts))

    def num_blocks_each(self, facts: TargetFacts) -> int:
        """Returns how many blocks a best-effort request takes at its end."""
        return math.ceil((self.be_prompt_tokens + self.be_max_tokens) / (facts.block_size or 1))

    def few_prompts(self, vocab_size: int) -> FewPrompts:
        """Makes the prompts of both classes, of token ids below this."""
        return FewPrompts(Prompts(PromptForm.TOKENS, vocab_size, self.seed), self.prompts)

    def plan(self, crowd: Crowd, prompts: FewPrompts) -> Plan:
        """Makes the plan of a run with these best-effort clients."""
        arrivals = self.ls_arrivals(self.seed)
        return Plan(
            workload={LS: Until(arrivals, self.warm_up + self.seconds), BE: crowd},
            prompts=prompts,
            vocab_size=None,
            num_idle=self.idle_requests,
            warm_up_s=self.warm_up,
            seconds=self.seconds,
            drain_s=self.drain,
            max_in_flight=_MAX_IN_FLIGHT,
        )
