"""Says how far one command goes: one unit, as far as fits a time, or the rest of the iteration; and what that takes.

A unit is what lies between two places where work may stop. Knows no batch and no policy: only the layers, predicted
unit costs and where stops are allowed.
"""

import math
from typing import Protocol

from scheduler_svc.core.prediction.cost_model import UnitCosts
from scheduler_svc.core.state.cursor import START, Cursor, PreemptAt, Stage

_ROUNDING = 1e-9  # a unit that fits exactly, fits

Step = tuple[Cursor, float]  # where it should stop, and its predicted seconds


class Reach(Protocol):
    """How far a step goes, whatever it costs: one of the planner's methods, with its room."""

    def __call__(self, costs: UnitCosts, at: Cursor, *, end: Cursor | None) -> Step:
        """Plans the step from `at` on; it never passes `end`, where there is one."""


class StepPlanner:
    """Plans steps through the layers of one model, each as where it should stop and its predicted seconds.

    Args:
        experts_by_layer: Experts of each layer; 0 for a layer without a mixture, which is one unit.
        preempt_at: Where a step may stop.

    Attributes:
        end: The cursor after the last layer.
    """

    def __init__(self, experts_by_layer: tuple[int, ...], preempt_at: PreemptAt) -> None:
        self.experts_by_layer = experts_by_layer
        self._preempt_at = preempt_at
        self.end = Cursor(len(experts_by_layer))

    def one_unit(self, costs: UnitCosts, at: Cursor, end: Cursor | None = None) -> Step:
        """Plans the one unit that must run from `at` on."""
        until, spent_s = self._next_stop(costs, at, 0.0)
        return min(until, end or self.end), spent_s

    def rest(self, costs: UnitCosts, at: Cursor, end: Cursor | None = None) -> Step:
        """Plans everything from `at` up to `end` (default: the end of the iteration)."""
        return (self.end, self._rest_of_iteration_s(costs, at)) if end is None else self.until(costs, at, end)

    def within(self, costs: UnitCosts, at: Cursor, room_s: float, end: Cursor | None = None) -> Step:
        """Plans as many units from `at` on as fit into `room_s` seconds, at least one, and never past `end`."""
        end = end or self.end
        until, spent_s = self._next_stop(costs, at, room_s)
        until, spent_s = self._whole_layers(costs, until, spent_s, room_s, end.layer)
        while until < end:
            following, cost_s = self._next_stop(costs, until, room_s - spent_s)
            if spent_s + cost_s > room_s + _ROUNDING:
                break
            until, spent_s = following, spent_s + cost_s
        return min(until, end), spent_s

    def until(self, costs: UnitCosts, at: Cursor, end: Cursor) -> Step:
        """Plans everything from `at` up to `end`, which may be where it is."""
        return self.within(costs, at, math.inf, end) if at < end else (end, 0.0)

    def longest_unit_s(self, costs: UnitCosts) -> float:
        """Returns the predicted seconds of the longest stretch between two places where a step may stop."""
        if self._preempt_at is PreemptAt.ITERATION:
            return self._rest_of_iteration_s(costs, START)
        if self._preempt_at is PreemptAt.LAYER:
            return costs.attention_s + max(self.experts_by_layer) * costs.expert_s + costs.head_s
        return max(costs.attention_s, costs.expert_s + costs.head_s)

    def _next_stop(self, costs: UnitCosts, start: Cursor, room_s: float) -> tuple[Cursor, float]:
        """Returns the next place where a step may stop; among experts, as many at once as fit the room."""
        if self._preempt_at is PreemptAt.ITERATION:
            return self.end, self._rest_of_iteration_s(costs, start)
        if self._preempt_at is PreemptAt.LAYER:
            return Cursor(start.layer + 1), self._rest_of_layer_s(costs, start)
        if start.stage is Stage.ATTENTION:
            return self._after_attention(costs, start.layer)
        left = self.experts_by_layer[start.layer] - start.expert
        fitting = left if costs.expert_s <= 0 else (room_s + _ROUNDING) / costs.expert_s
        taken = int(max(1, min(left, fitting)))
        if taken >= left:
            return Cursor(start.layer + 1), left * costs.expert_s + self._head_s(costs, start.layer)
        return Cursor(start.layer, Stage.EXPERTS, start.expert + taken), taken * costs.expert_s

    def _whole_layers(
        self, costs: UnitCosts, at: Cursor, spent_s: float, room_s: float, end_layer: int
    ) -> tuple[Cursor, float]:
        """Goes on layer by layer, to the last one whose end still fits: few steps where a command takes many layers."""
        while at.layer < end_layer:
            layer_s = self._rest_of_layer_s(costs, at)
            if spent_s + layer_s > room_s + _ROUNDING:
                break
            at, spent_s = Cursor(at.layer + 1), spent_s + layer_s
        return at, spent_s

    def _after_attention(self, costs: UnitCosts, layer: int) -> tuple[Cursor, float]:
        if self.experts_by_layer[layer]:
            return Cursor(layer, Stage.EXPERTS, 0), costs.attention_s
        return Cursor(layer + 1), costs.attention_s + self._head_s(costs, layer)

    def _rest_of_layer_s(self, costs: UnitCosts, start: Cursor) -> float:
        experts_s = (self.experts_by_layer[start.layer] - start.expert) * costs.expert_s
        attention_s = costs.attention_s if start.stage is Stage.ATTENTION else 0.0
        return attention_s + experts_s + self._head_s(costs, start.layer)

    def _rest_of_iteration_s(self, costs: UnitCosts, start: Cursor) -> float:
        later = self.experts_by_layer[start.layer + 1 :]
        later_s = len(later) * costs.attention_s + sum(later) * costs.expert_s
        head_s = costs.head_s if later else 0.0  # the last layer's own rest holds it already
        return self._rest_of_layer_s(costs, start) + later_s + head_s

    def _head_s(self, costs: UnitCosts, layer: int) -> float:
        return costs.head_s if layer + 1 == self.end.layer else 0.0
