"""Programs that ask, let a tool run, and ask again with all that was said before: what agents do.

    arrival ── turn ── tool ── turn ── tool ── ... ── turn      a prompt: the one before, its answer, the tool's result

Everything about a program is drawn from a seed of its own, so that the programs of two simulations differ in nothing
but what they are answered, and when. Knows nothing of the core; time is an argument.
"""

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from scheduler_svc.core.state.sequence import RequestClass, SessionTurn
from scheduler_svc.simulation.arrivals import Arrival, Request, Turn


class TurnSpread(StrEnum):
    """How the numbers of turns of programs are spread."""

    FIXED = "fixed"
    GEOMETRIC = "geometric"


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool whose durations are log-normal.

    Attributes:
        mean_s: Their mean in seconds.
        sigma: The standard deviation of their logarithm; 0: all are the same.
    """

    name: str
    mean_s: float
    sigma: float = 1.0

    def draw_s(self, chance: random.Random) -> float:
        """Draws a duration."""
        return chance.lognormvariate(math.log(self.mean_s) - self.sigma**2 / 2, self.sigma)


DEFAULT_TOOLS = (Tool("read", 0.5, 0.5), Tool("search", 2.0, 1.0), Tool("test", 15.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLoad:
    """Programs that come at random times.

    Attributes:
        rate_per_s: How many come in a second (Poisson).
        num_prompt_tokens: Tokens of a first turn's prompt.
        num_tool_tokens: Tokens that each tool's result adds.
        num_output_tokens: Tokens of each turn's answer.
        num_turns: Turns of each program, or their mean.
        tools: One of them, by chance, runs after each turn but the last.
        seed: Fixes everything.
    """

    num_programs: int
    rate_per_s: float
    num_prompt_tokens: int = 2000
    num_tool_tokens: int = 300
    num_output_tokens: int = 100
    num_turns: int = 8
    turn_spread: TurnSpread = TurnSpread.FIXED
    tools: tuple[Tool, ...] = DEFAULT_TOOLS
    request_class: RequestClass = RequestClass.BEST_EFFORT
    seed: int = 0

    def num_tokens_of(self, num_turns: int) -> int:
        """Returns the tokens of a program's last turn, with its answer."""
        return self.num_prompt_tokens + num_turns * self.num_output_tokens + (num_turns - 1) * self.num_tool_tokens


@dataclass(slots=True)
class _Agent:
    """A program under way."""

    number: int
    num_turns: int
    num_prompt_tokens: int
    chance: random.Random
    begun_s: float
    num_ended: int = 0
    tool: str = ""

    @property
    def is_in_last_turn(self) -> bool:
        return self.num_ended + 1 == self.num_turns


@dataclass(slots=True)
class AgentTimes:
    """What the programs met, in virtual seconds.

    Attributes:
        turn_delays_s: From each turn's arrival to its first token.
        completions_s: From each program's first arrival to the end of its last turn.
    """

    turn_delays_s: list[float] = field(default_factory=list)
    completions_s: list[float] = field(default_factory=list)


class Agents:
    """The programs to come and under way.

    Args:
        load: Who asks.
        longest: The most tokens of a prompt and its answer: a program whose turns are drawn ends before it has more.

    Attributes:
        times: What they met so far.
    """

    def __init__(self, load: AgentLoad, longest: int) -> None:
        self.times = AgentTimes()
        self._load = load
        self._longest = longest
        self._under_way: dict[int, _Agent] = {}
        self._due: list[tuple[float, int]] = []  # of turns to come: when, and whose; the next one is first
        chance, at_s = random.Random(f"agents {load.seed}"), 0.0
        for number in range(load.num_programs):
            at_s += chance.expovariate(load.rate_per_s)
            self._due.append((at_s, number))

    @property
    def next_s(self) -> float:
        """When the next turn comes; infinity if none does by itself."""
        return self._due[0][0] if self._due else float("inf")

    @property
    def is_done(self) -> bool:
        """Whether all programs have ended."""
        return not self._due and not self._under_way

    def take_due(self, now_s: float) -> Iterator[Arrival]:
        """Yields the turns that have come until now, and drops them."""
        while self._due and self._due[0][0] <= now_s:
            at_s, number = heapq.heappop(self._due)
            agent = self._under_way.get(number) or self._begin(number, at_s)
            agent.tool = "" if agent.is_in_last_turn else agent.chance.choice(self._load.tools).name
            session = SessionTurn(f"agent-{number}", agent.tool, agent.is_in_last_turn)
            load = self._load
            request = Request(at_s, load.request_class, agent.num_prompt_tokens, load.num_output_tokens)
            yield Arrival(request, turn=Turn(number, session))

    def turn_ended(self, number: int, delay_s: float, now_s: float) -> None:
        """Takes in that a program's turn has ended, whose first token came `delay_s` after its arrival."""
        agent, load = self._under_way[number], self._load
        self.times.turn_delays_s.append(delay_s)
        if agent.is_in_last_turn:
            self.times.completions_s.append(now_s - agent.begun_s)
            del self._under_way[number]
            return
        agent.num_ended += 1
        agent.num_prompt_tokens += load.num_output_tokens + load.num_tool_tokens
        (tool,) = (each for each in load.tools if each.name == agent.tool)
        heapq.heappush(self._due, (now_s + tool.draw_s(agent.chance), number))

    def _begin(self, number: int, at_s: float) -> _Agent:
        load = self._load
        chance = random.Random(f"agent {load.seed} {number}")
        num_turns = load.num_turns
        if load.turn_spread is TurnSpread.GEOMETRIC:
            num_turns = 1
            while chance.random() > 1 / load.num_turns and load.num_tokens_of(num_turns + 1) <= self._longest:
                num_turns += 1
        agent = self._under_way[number] = _Agent(number, num_turns, load.num_prompt_tokens, chance, at_s)
        return agent
