"""Programs of agents: turns with tool calls between them, whose prompts repeat all before. Pure; the seed fixes all.

arrives       answer             answer                answer
|-- turn 0 --|.. tool runs ..|-- turn 1 --|.. tool ..|-- turn 2 --|  done
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qllm.client.bench.errors import BenchError

_MOST_SIGMA = 5.0


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool, whose calls take log-normal times.

    Attributes:
        median_s: Seconds that half of them take at most.
        sigma: Standard deviation of their logarithm.
    """

    name: str
    median_s: float
    sigma: float

    @classmethod
    def parse(cls, text: str) -> "Tool":
        """Reads NAME=MEDIAN_S:SIGMA.

        Raises:
            BenchError: It is something else.
        """
        name, _, times = text.partition("=")
        median, _, sigma = times.partition(":")
        try:
            tool = cls(name, float(median), float(sigma))
        except ValueError:
            tool = cls("", 0.0, 0.0)
        if not tool.name or not 0 < tool.median_s < math.inf or not 0 <= tool.sigma <= _MOST_SIGMA:
            allowed = f"NAME=MEDIAN_S:SIGMA with a sigma from 0 to {_MOST_SIGMA:g}, such as search=1:0.8"
            raise BenchError(f"--tool: got {text!r}, allowed is {allowed}")
        return tool

    @property
    def mean_s(self) -> float:
        """Mean seconds of its calls."""
        return self.median_s * math.exp(self.sigma**2 / 2)


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of a program.

    Attributes:
        num_new_tokens: Tokens that the prompt has beyond all that was said before: a task, or what a tool returned.
        num_output_tokens: Tokens of the answer.
        tool: Name of the tool that is called after the answer; None: the program ends.
        tool_s: Seconds that it runs.
    """

    num_new_tokens: int
    num_output_tokens: int
    tool: str | None
    tool_s: float


@dataclass(frozen=True, slots=True)
class Program:
    """One program.

    Attributes:
        index: Its number.
        at_s: When it arrives, from the load's start.
        steps: Its turns; only the last one calls no tool.
    """

    index: int
    at_s: float
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Agents:
    """Who comes, and what each does.

    Attributes:
        rate_per_s: Programs a second, at random times (Poisson).
        turns: Least and greatest number of a program's turns, all numbers between alike.
        first_tokens: Median length of the first prompt; log-normal as all lengths here.
        tool_tokens: Median length of what a tool returns.
        output_tokens: Median length of an answer.
        spread: Standard deviation of the logarithm of these lengths.
        tools: What is called, each as often as the others.
        longest_tokens: Most tokens of a program's last prompt and answer; turns that would go beyond it are left out.
    """

    rate_per_s: float
    turns: tuple[int, int]
    first_tokens: int
    tool_tokens: int
    output_tokens: int
    spread: float
    tools: Sequence[Tool]
    longest_tokens: int
    seed: int

    def programs(self, count: int) -> Iterator[Program]:
        """Yields so many programs in the order of their arrivals, the same ones each time."""
        chance = random.Random(f"agents {self.seed}")
        at_s = 0.0
        for index in range(count):
            at_s += chance.expovariate(self.rate_per_s)
            yield Program(index, at_s, self._steps(chance))

    def _steps(self, chance: random.Random) -> tuple[Step, ...]:
        steps: list[Step] = []
        num_tokens, num_turns = 0, chance.randint(*self.turns)
        for number in range(num_turns):
            new = self._length(chance, self.tool_tokens if number else self.first_tokens)
            output = self._length(chance, self.output_tokens)
            tool = chance.choice(self.tools)
            tool_s = chance.lognormvariate(math.log(tool.median_s), tool.sigma)
            num_tokens += new + output
            if steps and num_tokens > self.longest_tokens:
                break
            steps.append(Step(min(new, self.longest_tokens - output), output, tool.name, tool_s))
        last = steps[-1]
        return (*steps[:-1], Step(last.num_new_tokens, last.num_output_tokens, None, 0.0))

    def _length(self, chance: random.Random, median: int) -> int:
        drawn = chance.lognormvariate(math.log(median), self.spread)
        return max(1, min(round(drawn), self.longest_tokens // 2))
