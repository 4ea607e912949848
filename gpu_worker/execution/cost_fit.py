"""Finds what units of work take on this machine from the timings of many steps: a line for each kind of work. Pure.

Each kind is linear in the counts that a cost table has (`qllm.cost_table`). Times scatter by factors, and to one side
where other processes run: the fit minimizes absolute relative errors, so that half of the steps take less than it says
and half take more, however far the slow ones are off. No time is negative.

Source: reweighted least squares, P. J. Huber, Robust Statistics, chapter 7.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from random import Random

import torch
from torch import Tensor

from gpu_worker.contract.results import WorkTiming

MOST_STEPS = 4096  # that are kept; more would make the fit better by less than steps differ from minute to minute
_COLUMNS = {field.name: number for number, field in enumerate(fields(WorkTiming))}
_ATTENTION = ("num_attention_stages", "attention_tokens", "attention_pairs")
_EXPERT = ("num_expert_runs", "expert_tokens")
_HEAD = ("num_heads", "head_rows")
_NUM_ROUNDS = 20
_LEAST_ERROR = 1e-3  # smaller ones weigh no more
_LEAST_SHARE = 1e-6  # of what was measured, that a prediction counts as at least


@dataclass(frozen=True, slots=True)
class FittedCosts:
    """What work takes, in microseconds, as a cost table has it.

    Attributes:
        attention_us: Of an attention stage: of itself, of each token, of each query-key pair.
        expert_us: Of an expert's run: of itself, of each token.
        head_us: Of an iteration's end: of itself, of each row.
        median_error: By which share half of the steps took more or less than this says.
    """

    attention_us: tuple[float, ...]
    expert_us: tuple[float, ...]
    head_us: tuple[float, ...]
    median_error: float


class StepSample:
    """A random choice of all steps so far, each as likely as any other; fixed by their order.

    Attributes:
        num_steps: All steps so far.
    """

    def __init__(self, most_steps: int = MOST_STEPS) -> None:
        self.num_steps = 0
        self._most_steps = most_steps
        self._rows: list[tuple[int, ...]] = []
        self._chance = Random(0)

    def note(self, timing: WorkTiming) -> None:
        """Takes in what a step ran; one that ran nothing does not count."""
        if not (timing.layers_ns or timing.head_ns):
            return
        self.num_steps += 1
        if len(self._rows) < self._most_steps:
            self._rows.append(astuple(timing))
        elif (place := self._chance.randrange(self.num_steps)) < self._most_steps:
            self._rows[place] = astuple(timing)

    def fit(self) -> FittedCosts:
        """Returns the costs that these steps come to; zero for a kind of work that never ran."""
        rows = torch.tensor(self._rows, dtype=torch.float64).reshape(-1, len(_COLUMNS))
        attention = _fit_kind(rows, _ATTENTION, "attention_ns")
        expert = _fit_kind(rows, _EXPERT, "expert_ns")
        head = _fit_kind(rows, _HEAD, "head_ns")
        predicted = sum(
            _columns(rows, names) @ ns for names, ns in ((_ATTENTION, attention), (_EXPERT, expert), (_HEAD, head))
        )
        measured = _columns(rows, ("attention_ns", "expert_ns", "head_ns")).sum(1)
        errors = (predicted / measured - 1).abs()
        return FittedCosts(
            attention_us=_microseconds(attention),
            expert_us=_microseconds(expert),
            head_us=_microseconds(head),
            median_error=float(errors.median()) if len(errors) else 0.0,
        )


def _columns(rows: Tensor, names: Sequence[str]) -> Tensor:
    return rows[:, [_COLUMNS[name] for name in names]]


def _microseconds(times_ns: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{each_ns / 1e3:.4g}") for each_ns in times_ns.tolist())


def _fit_kind(rows: Tensor, names: Sequence[str], time: str) -> Tensor:
    """Returns the nanoseconds of each count of one kind of work."""
    # Time without a count says nothing; a head that was left goes on with rows, but is no further head.
    ran = (_columns(rows, names).sum(1) > 0) & (rows[:, _COLUMNS[time]] > 0)
    counts, times_ns = _columns(rows[ran], names), rows[ran][:, _COLUMNS[time]]
    costs = torch.zeros(len(names), dtype=torch.float64)
    if not len(counts):
        return costs
    weights = 1 / times_ns
    for _ in range(_NUM_ROUNDS):
        costs = _solve(counts * weights[:, None], times_ns * weights)
        predicted = torch.maximum(counts @ costs, _LEAST_SHARE * times_ns)
        middle = (predicted * times_ns).sqrt()  # relative to it, half as long and twice as long are errors of one size
        errors = (predicted - times_ns).abs() / middle
        weights = 1 / (middle * errors.clamp_min(_LEAST_ERROR).sqrt())
    return costs


def _solve(counts: Tensor, times: Tensor) -> Tensor:
    """Returns the least squares solution without negative numbers: the best of those that leave some counts out."""
    scales: Tensor = (counts * counts).sum(0).sqrt().clamp_min(1e-300)
    scaled = counts / scales
    gram, target = scaled.T @ scaled, scaled.T @ times
    size = counts.shape[1]
    best: Tensor = torch.zeros(size, dtype=torch.float64)
    least = 0.0
    for kept in (list(one) for number in range(1, size + 1) for one in combinations(range(size), number)):
        part, of_target = gram[kept][:, kept], target[kept]
        found = torch.linalg.lstsq(part, of_target, driver="gelsd").solution  # counts may stand in one proportion
        rest = float(found @ part @ found - 2 * found @ of_target)
        if rest < least and bool((found >= 0).all()):
            best, least = torch.zeros(size, dtype=torch.float64), rest
            best[kept] = found
    return best / scales
