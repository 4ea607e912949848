"""One step under way in a virtual worker: when it ends, where it stands then, and where it stops if it is cut short.

Units are numbered through the model, so that each answer is arithmetic, whatever the step's length:

    layer 0                          layer 1
    0 attention  1 .. E experts      E+1 attention  ...      L * (E+1): the end, where the head runs too
"""

from dataclasses import dataclass

from scheduler_svc.core.state.batch import Shape
from scheduler_svc.core.state.cursor import Cursor, PreemptAt, Stage
from scheduler_svc.core.state.results import WorkTiming
from scheduler_svc.simulation.step_costs import StepCosts, UnitTimes


@dataclass(frozen=True, slots=True)
class UnitNumbering:
    """The numbering of one model's units."""

    num_layers: int
    num_experts: int

    @property
    def end(self) -> int:
        """The place after the last layer."""
        return self.num_layers * (1 + self.num_experts)

    def place(self, cursor: Cursor) -> int:
        """Returns the number of the unit that runs next at a cursor."""
        first = cursor.layer * (1 + self.num_experts)
        return first if cursor.stage is Stage.ATTENTION else first + 1 + cursor.expert

    def cursor(self, place: int) -> Cursor:
        """Returns the cursor of a place."""
        layer, unit = divmod(place, 1 + self.num_experts)
        return Cursor(layer) if unit == 0 else Cursor(layer, Stage.EXPERTS, unit - 1)

    def num_attention_stages(self, start: int, until: int) -> int:
        """Counts the attention stages among the units from `start` to before `until`."""
        size = 1 + self.num_experts
        return -(-until // size) - -(-start // size)


@dataclass(slots=True)
class RunningStep:
    """A step of batches that run jointly, of one shape together, from `start` up to `until`, which began at `begin_s`.

    Attributes:
        until: Where it ends; nearer once it was cut short.
        preempt_at: Where it may be cut short; None: nowhere.
    """

    costs: StepCosts
    numbering: UnitNumbering
    shape: Shape
    times: UnitTimes
    begin_s: float
    start: int
    until: int
    preempt_at: PreemptAt | None

    @property
    def ends_s(self) -> float:
        """When it ends."""
        return self.begin_s + self._seconds_to(self.until)

    @property
    def timing(self) -> WorkTiming:
        """What it reports at its end."""
        stages = self.numbering.num_attention_stages(self.start, self.until)
        experts = self.until - self.start - stages
        return self.costs.timing(self.shape, stages, experts, int(self._has_head(self.until)))

    def cut_short(self, now_s: float) -> None:
        """Leaves it at the first place from now on where it may stop; where it starts, if it has not begun yet."""
        if now_s < self.begin_s:
            self.until = self.start
            return
        stride = 1 if self.preempt_at is PreemptAt.EXPERT else 1 + self.numbering.num_experts
        low, high = -(-(self.start + 1) // stride), -(-self.until // stride)
        while low < high:
            middle = (low + high) // 2
            if self.begin_s + self._seconds_to(min(middle * stride, self.until)) >= now_s:
                high = middle
            else:
                low = middle + 1
        self.until = max(self.start, min(low * stride, self.until))

    def _seconds_to(self, place: int) -> float:
        stages = self.numbering.num_attention_stages(self.start, place)
        experts = place - self.start - stages
        seconds = stages * self.times.attention_s + experts * self.times.expert_s
        return seconds + self.times.head_s if self._has_head(place) else seconds

    def _has_head(self, place: int) -> bool:
        return self.start < place == self.numbering.end
