"""The options of a load of agents' programs."""

from dataclasses import dataclass
from typing import Annotated

import typer
from qllm.client.bench.errors import BenchError
from qllm.client.bench.load.memory.programs import Agents, Tool
from qllm.client.bench.load.target import TargetFacts
from qllm.client.bench.load.workload import Lengths
from qllm.client.messages import RequestClass
from qllm.settings import Setting

_LOAD, _BESIDE, _MEASURING = "What programs do", "What else is asked", "Measuring"
_TOOLS = ("read=0.3:0.6", "search=1:0.8", "tests=4:1")
_DEFAULT_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """Who comes, what each does, and how often that is measured."""

    programs: Annotated[
        int,
        Setting(1, 1_000_000, panel=_LOAD),
        "Runs so many programs of agents.",
    ] = 60
    rate: Annotated[
        float,
        Setting(0.001, 100_000, metavar="PER_SECOND", panel=_LOAD),
        "Lets so many programs a second arrive, at random times (Poisson).",
    ] = 0.2
    least_turns: Annotated[
        int,
        Setting(1, 4096, panel=_LOAD),
        "Sets how many turns a program has at least.",
    ] = 3
    most_turns: Annotated[
        int,
        Setting(1, 4096, panel=_LOAD),
        "Sets how many turns a program has at most.",
    ] = 8
    first_tokens: Annotated[
        int,
        Setting(1, panel=_LOAD),
        "Sets the median length of a program's first prompt. Lengths are log-normal.",
    ] = 400
    tool_tokens: Annotated[
        int,
        Setting(1, panel=_LOAD),
        "Sets the median length of what a tool returns, which the next turn adds to all that was said before.",
    ] = 100
    output_tokens: Annotated[
        int,
        Setting(1, panel=_LOAD),
        "Sets the median length of an answer.",
    ] = 32
    spread: Annotated[
        float,
        Setting(0, 5, panel=_LOAD),
        "Sets the standard deviation of the logarithm of these lengths.",
    ] = 0.4
    tool: Annotated[
        list[str] | None,
        Setting(metavar="NAME=MEDIAN_S:SIGMA", panel=_LOAD, unset=", ".join(_TOOLS)),
        "Adds a tool. Its calls take log-normal times: half of them at most so many seconds, and the logarithm has "
        "this standard deviation. It may be given several times.",
    ] = None
    request_class: Annotated[
        RequestClass,
        Setting(panel=_LOAD),
        "Chooses the class of all turns: ls, latency-sensitive, or be, best-effort.",
    ] = RequestClass.LATENCY_SENSITIVE
    seed: Annotated[
        int,
        Setting(panel=_LOAD),
        "Fixes all that is random. Every round has another one, and all set-ups of a round have the same.",
    ] = 0
    be_clients: Annotated[
        int,
        Setting(0, 4096, panel=_BESIDE),
        "Lets so many clients each send a best-effort request whenever their last one has ended.",
    ] = 4
    be_prompt_tokens: Annotated[
        int,
        Setting(1, panel=_BESIDE),
        "Sets how many tokens the prompt of such a request has.",
    ] = 1100
    be_max_tokens: Annotated[
        int,
        Setting(1, panel=_BESIDE),
        "Sets how many tokens such a request asks for.",
    ] = 64
    learn: Annotated[
        int,
        Setting(0, 1_000_000, panel=_MEASURING),
        "Leaves the first programs out of all figures but those of the memory: the service learns from them how long "
        "tools take. It believes what it knows after 100 calls.",
    ] = 20
    rounds: Annotated[
        int,
        Setting(1, 1000, panel=_MEASURING),
        "Sets how often each set-up is measured, in turns.",
    ] = 3

    @property
    def background(self) -> Lengths:
        """Lengths of the best-effort requests beside."""
        return Lengths(self.be_prompt_tokens, self.be_max_tokens)

    def check(self) -> None:
        """Checks that the options fit each other.

        Raises:
            typer.BadParameter: They contradict each other, or a tool can't be read.
        """
        if self.least_turns > self.most_turns:
            raise typer.BadParameter(
                f"got {self.least_turns}, allowed is at most --most-turns, {self.most_turns}",
                param_hint="--least-turns",
            )
        if self.learn >= self.programs:
            raise typer.BadParameter(
                f"got {self.learn}, allowed is fewer than --programs, {self.programs}", param_hint="--learn"
            )
        self.tools()

    def tools(self) -> list[Tool]:
        """Reads the tools.

        Raises:
            typer.BadParameter: One can't be read.
        """
        try:
            return [Tool.parse(text) for text in self.tool or _TOOLS]
        except BenchError as error:
            raise typer.BadParameter(str(error)) from None

    def agents(self, facts: TargetFacts, round_number: int) -> Agents:
        """Returns the programs of a round.

        None of them wants more than half of the cache, than the model takes, or than 4,096 tokens.
        """
        room = (facts.num_blocks or 0) * (facts.block_size or 0) // 2 or _DEFAULT_LONGEST
        return Agents(
            rate_per_s=self.rate,
            turns=(self.least_turns, self.most_turns),
            first_tokens=self.first_tokens,
            tool_tokens=self.tool_tokens,
            output_tokens=self.output_tokens,
            spread=self.spread,
            tools=self.tools(),
            longest_tokens=min(room, facts.max_model_len or _DEFAULT_LONGEST, _DEFAULT_LONGEST),
            seed=self.seed + round_number,
        )
