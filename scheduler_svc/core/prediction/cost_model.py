"""Predicts how long work takes, learned online from what the worker reports. Never a hard-coded time.

Each kind of work is linear in a few counts: attention in stages, tokens and query-key pairs; an expert in runs and
tokens; the head in passes and rows. Sums of counts predict sums of times, so whole steps teach as well as single
stages. The fit is recursive least squares on relative errors with exponential forgetting; see S. Haykin, Adaptive
Filter Theory, chapter 10. What slows all work down for a while (another process, a clock, heat) is followed within a
few steps by one common factor.
"""

import math
from collections import abc
from dataclasses import dataclass

from scheduler_svc.core.state.batch import Shape
from scheduler_svc.core.state.results import WorkerModel, WorkTiming

FORGETTING = 0.995
OUTLIER_RATIO = 4.0
_INITIAL_VARIANCE = 1e8  # weights are milliseconds per scaled count: nothing is known of them at first
_MIN_TIME_MS = 1e-4
_SLOWDOWN_GAIN = 0.15  # of the last step's error: about seven steps to follow a change
_SLOWDOWN_BOUND = math.log(OUTLIER_RATIO)


class OnlineFit:
    """Non-negative weights w such that w . x predicts a time in milliseconds.

    `scales` are typical sizes of the counts, so that the numbers inside stay near one.
    """

    def __init__(self, scales: abc.Sequence[float]) -> None:
        self._scales = tuple(scales)
        size = len(self._scales)
        self._weights = [0.0] * size
        self._ms_per_count = [0.0] * size  # the weights as predictions need them
        self._covariance = [[_INITIAL_VARIANCE * (i == j) for j in range(size)] for i in range(size)]
        self.num_samples = 0

    def predict_ms(self, counts: abc.Sequence[float]) -> float:
        """Returns the predicted time of work with these counts."""
        time_ms = 0.0
        for each_ms, count in zip(self._ms_per_count, counts, strict=True):
            time_ms += each_ms * count
        return time_ms

    @property
    def is_settled(self) -> bool:
        """Whether it has seen enough for a large error to be the measurement's fault."""
        return self.num_samples > 10 * len(self._scales)

    def observe(self, counts: abc.Sequence[float], time_ms: float) -> None:
        """Learns from one measurement; once settled, a time far over the prediction (a hiccup) is bounded first."""
        predicted = self.predict_ms(counts)
        if self.is_settled and predicted > 0:
            time_ms = min(time_ms, OUTLIER_RATIO * predicted)
        unit = max(time_ms, _MIN_TIME_MS)  # relative error: every measurement weighs the same, whatever its size
        self._step([count / scale / unit for count, scale in zip(counts, self._scales, strict=True)], 1.0)
        self.num_samples += 1

    def _step(self, row: list[float], target: float) -> None:
        gains = [sum(a * b for a, b in zip(line, row, strict=True)) for line in self._covariance]
        spread = FORGETTING + sum(a * b for a, b in zip(row, gains, strict=True))
        error = target - sum(w * r for w, r in zip(self._weights, row, strict=True))
        self._weights = [w + g / spread * error for w, g in zip(self._weights, gains, strict=True)]
        self._ms_per_count = [max(0.0, w) / scale for w, scale in zip(self._weights, self._scales, strict=True)]
        # Work of one size teaches nothing about the other directions: forgetting must not inflate those without end.
        is_bounded = all(line[i] < _INITIAL_VARIANCE for i, line in enumerate(self._covariance))
        keep = FORGETTING if is_bounded else 1.0
        self._covariance = [
            [(value - gains[i] * gains[j] / spread) / keep for j, value in enumerate(line)]
            for i, line in enumerate(self._covariance)
        ]


class Slowdown:
    """By what factor everything takes longer now than was learned: a moving mean of recent errors, on a log scale."""

    def __init__(self) -> None:
        self._log = 0.0

    @property
    def factor(self) -> float:
        """Measured over predicted time, about 1."""
        return math.exp(self._log)

    def observe(self, predicted_ms: float, measured_ms: float) -> None:
        """Takes in one step."""
        if predicted_ms > 0 and measured_ms > 0:
            error = math.log(measured_ms / predicted_ms)
            self._log += _SLOWDOWN_GAIN * (max(-_SLOWDOWN_BOUND, min(_SLOWDOWN_BOUND, error)) - self._log)


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """Predicted seconds of one iteration's units: an attention stage, one expert, and what follows the last layer."""

    attention_s: float
    expert_s: float
    head_s: float


class CostModel:
    """Predicted times of moving caches, and of the units that a batch, or several that run jointly, goes through."""

    def __init__(self, model: WorkerModel) -> None:
        self._experts_per_token = model.num_experts_per_token
        self._num_experts = max(model.experts_by_layer, default=0)
        self._attention = OnlineFit((1.0, 64.0, 65536.0))
        self._expert = OnlineFit((1.0, 64.0))
        self._head = OnlineFit((1.0, 8.0))
        self._offload = OnlineFit((16.0,))
        self._restore = OnlineFit((16.0,))
        self._slowdown = Slowdown()
        self._uncounted_ms = dict.fromkeys((self._attention, self._expert, self._head), 0.0)

    @property
    def is_ready(self) -> bool:
        """Whether it has seen each kind of work at least once."""
        has_experts = self._expert.num_samples > 0 or not self._num_experts
        return has_experts and self._attention.num_samples > 0 and self._head.num_samples > 0

    def observe(self, timing: WorkTiming) -> None:
        """Learns from what one step ran; what took time without a count goes with the next counts of its kind."""
        attention = (timing.num_attention_stages, timing.attention_tokens, timing.attention_pairs)
        expert = (timing.num_expert_runs, timing.expert_tokens)
        head = (timing.num_heads, timing.head_rows)
        parts: tuple[tuple[OnlineFit, tuple[int, ...], float], ...] = (
            (self._attention, attention, timing.attention_ns * 1e-6),
            (self._expert, expert, timing.expert_ns * 1e-6),
            (self._head, head, timing.head_ns * 1e-6),
        )
        ran: list[tuple[OnlineFit, tuple[int, ...], float]] = []
        for fit, counts, time_ms in parts:
            self._uncounted_ms[fit] += time_ms
            if any(counts):
                ran.append((fit, counts, self._uncounted_ms[fit]))
                self._uncounted_ms[fit] = 0.0
        if all(fit.is_settled for fit, _, _ in ran):
            predicted_ms = sum(fit.predict_ms(counts) for fit, counts, _ in ran)
            self._slowdown.observe(predicted_ms, sum(time_ms for _, _, time_ms in ran))
        for fit, counts, time_ms in ran:
            fit.observe(counts, time_ms)
        if timing.num_offloaded_blocks:
            self._offload.observe((timing.num_offloaded_blocks,), timing.offload_ns * 1e-6)
        if timing.num_restored_blocks:
            self._restore.observe((timing.num_restored_blocks,), timing.restore_ns * 1e-6)

    def move_s(self, num_blocks: int) -> float:
        """Predicts how long the worker is kept by moving a cache off the device and back; 0 until that was seen."""
        counts = (num_blocks,)
        return (self._offload.predict_ms(counts) + self._restore.predict_ms(counts)) * 1e-3

    def unit_costs(self, shape: Shape) -> UnitCosts:
        """Predicts the units of batches whose shapes sum to `shape` and that run jointly.

        Routing is not known ahead: a token is taken to choose its experts evenly, so an expert runs with the
        probability that some token chose it.
        """
        attention_ms = self._attention.predict_ms((shape.num_passes, shape.num_tokens, shape.num_pairs))
        head_ms = self._head.predict_ms((shape.num_passes, shape.num_rows))
        expert_ms = 0.0
        if self._num_experts:
            chosen = min(1.0, self._experts_per_token / self._num_experts)
            runs = 1.0 - (1.0 - chosen) ** shape.num_tokens
            expert_ms = self._expert.predict_ms((runs, shape.num_tokens * chosen))
        to_seconds = 1e-3 * self._slowdown.factor
        return UnitCosts(attention_ms * to_seconds, expert_ms * to_seconds, head_ms * to_seconds)

    def iteration_s(self, shape: Shape, experts_by_layer: abc.Sequence[int]) -> float:
        """Predicts a whole iteration in seconds."""
        costs = self.unit_costs(shape)
        return len(experts_by_layer) * costs.attention_s + sum(experts_by_layer) * costs.expert_s + costs.head_s
