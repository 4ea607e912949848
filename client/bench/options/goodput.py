"""The options of a search for goodput: the load at each level, the targets, and how sure the answer is to be."""

from dataclasses import dataclass
from typing import Annotated

import typer
from qllm.client.bench.load.prompts import PromptForm, Prompts
from qllm.client.bench.load.run import Plan
from qllm.client.bench.load.workload import BE, LS, Crowd
from qllm.client.bench.options.both_classes import LOAD, BothClasses
from qllm.client.bench.options.prompt_form import chosen_form
from qllm.client.bench.results.goodput_search import Rule
from qllm.client.bench.results.summary import Targets
from qllm.settings import Setting

_TARGETS, _MEASURING = "What is to be kept", "Measuring"
_MAX_IN_FLIGHT = 4096
_USUAL = Targets()


@dataclass(frozen=True, slots=True)
class GoodputOptions(BothClasses):
    """What is searched for, and how."""

    slo_ttft_to_idle: Annotated[
        float,
        Setting(1, is_finite=True, metavar="X", panel=_TARGETS),
        "Asks that the first token of a latency-sensitive request comes within so many times "
        "what it takes on average on the idle server.",
    ] = _USUAL.ttft_to_idle
    slo_tpot_ms: Annotated[
        float,
        Setting(0.001, panel=_TARGETS),
        "Asks that its further tokens take at most so many milliseconds each on average.",
    ] = _USUAL.tpot_ms
    attainment: Annotated[
        float,
        Setting(0, 1, metavar="SHARE", panel=_TARGETS),
        "Asks that this share of the latency-sensitive requests keeps both.",
    ] = 0.99
    max_be_clients: Annotated[
        int,
        Setting(1, 4096, panel=_TARGETS),
        "Tries at most so many best-effort clients, each of whom sends a request whenever the last one has ended.",
    ] = 64
    prompt_form: Annotated[
        PromptForm | None,
        Setting(panel=LOAD, unset="tokens, with --chat text"),
        "Chooses what prompts are sent as: token ids have exactly the wanted length, text has it nearly.",
    ] = None
    vocab_size: Annotated[
        int | None,
        Setting(1, panel=LOAD, unset="what a gRPC service says"),
        "Keeps the token ids of prompts below this number.",
    ] = None
    seed: Annotated[
        int,
        Setting(panel=LOAD),
        "Fixes what is random: the times of requests, and prompts. A server over --http that does not know the field "
        "cache_salt may find the prompts of an earlier run in its cache: give it another seed each time.",
    ] = 0
    seconds: Annotated[
        float,
        Setting(0.1, is_finite=True, metavar="SECONDS", panel=_MEASURING),
        "Sets how long a window is that is measured.",
    ] = 30.0
    windows: Annotated[
        int,
        Setting(2, 1000, panel=_MEASURING),
        "Measures each number of best-effort clients in at least so many windows.",
    ] = 2
    max_windows: Annotated[
        int,
        Setting(2, 1000, panel=_MEASURING),
        "Adds windows up to so many while the share of requests that keep both targets may as well lie on the other "
        "side of --attainment. Then the share decides as it is.",
    ] = 4
    warm_up: Annotated[
        float,
        Setting(0, is_finite=True, metavar="SECONDS", panel=_MEASURING),
        "Sets how long the load runs after each change in the number of best-effort clients before a window begins.",
    ] = 5.0
    drain: Annotated[
        float,
        Setting(0, is_finite=True, metavar="SECONDS", panel=_MEASURING),
        "Limits how long the latency-sensitive requests of a window have to end after it, and how long clients who "
        "are too many have to get their last answer.",
    ] = 60.0
    idle_requests: Annotated[
        int,
        Setting(1, panel=_MEASURING),
        "Sends so many requests, one after another, to the idle server before the load begins.",
    ] = 20

    @property
    def targets(self) -> Targets:
        """What a latency-sensitive request is to keep."""
        return Targets(self.slo_ttft_to_idle, self.slo_tpot_ms)

    @property
    def rule(self) -> Rule:
        """When a level holds."""
        return Rule(self.attainment, self.windows, self.max_windows)

    def crowd(self) -> Crowd:
        """Makes the best-effort clients."""
        return Crowd(self.be_lengths)

    def check(self, *, chat: bool) -> None:
        """Checks that the options fit each other.

        Raises:
            typer.BadParameter: They contradict each other.
        """
        if self.max_windows < self.windows:
            raise typer.BadParameter(
                f"got {self.max_windows}, allowed is {self.windows} or more, as --windows says",
                param_hint="--max-windows",
            )
        chosen_form(self.prompt_form, chat=chat)

    def plan(self, crowd: Crowd, *, chat: bool) -> Plan:
        """Returns the load of one server, with these best-effort clients."""
        form = chosen_form(self.prompt_form, chat=chat)
        return Plan(
            workload={LS: self.ls_arrivals(self.seed), BE: crowd},
            prompts=Prompts(form, vocab_size=0, seed=self.seed),
            vocab_size=self.vocab_size,
            num_idle=self.idle_requests,
            warm_up_s=self.warm_up,
            seconds=self.seconds,
            drain_s=self.drain,
            max_in_flight=_MAX_IN_FLIGHT,
        )
