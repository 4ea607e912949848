"""What a proof consists of: its steps in order of value, and the time that each may take."""

from collections.abc import Mapping
from dataclasses import dataclass

PLANNED_MINUTES = 9.0
_SHORTEST_BOX_S = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        name: How it is named on the command line; its code is the module of that name in `steps`.
        what: What it shows.
        seconds: Its time box in a proof of PLANNED_MINUTES; None takes what is left.
        shares_model: Whether it runs in the process that holds the large model, which takes long to make.
    """

    name: str
    what: str
    seconds: float | None
    shares_model: bool = False


# The environment has 10 s of work, and time for torch to be read from a cold disk, which every later step then has.
STEPS = (
    Step("environment", "versions, device, memory, kernels", 25),
    Step("smoke", "a tiny model through both processes: tokens as generate's, best-effort work interrupted", 45),
    Step("gpu_tests", "the tests marked gpu", 120),
    Step("decode", "decode speed, eager and from CUDA graphs; cost of a stop before every layer", 100, True),
    Step("preemption", "an LS arrival's wait for its first work, while best-effort work runs", 60, True),
    Step("paper", "fcfs beside qllm at two rates, through both processes", None, True),
)
STEP_NAMES = tuple(step.name for step in STEPS)


@dataclass(frozen=True, slots=True)
class Boxes:
    """The time boxes of a proof.

    Args:
        minutes: Time of the whole proof; planned boxes are scaled to it.
        given: Seconds of the steps whose boxes were given, by name.
    """

    minutes: float
    given: Mapping[str, float]

    def seconds(self, step: Step, left_s: float) -> float:
        """The box of a step that starts with so much time left, never longer than that."""
        if step.name in self.given:
            box_s = self.given[step.name]
        elif step.seconds is None:
            box_s = left_s
        else:
            box_s = step.seconds * self.minutes / PLANNED_MINUTES
        return min(max(box_s, _SHORTEST_BOX_S), left_s)
