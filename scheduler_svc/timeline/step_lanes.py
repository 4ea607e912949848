"""Turns answered steps into the worker's lanes and the batches' spans. One object for one life of the worker.

A batch that goes on after it was preempted was resumed; batches that begin to advance together have joined.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler_svc.core.state.batch import Batch
from scheduler_svc.core.state.cursor import START, Cursor, Stage
from scheduler_svc.core.state.ids import BatchId
from scheduler_svc.core.state.results import StepResult
from scheduler_svc.core.window import InFlight
from scheduler_svc.timeline.events import (
    LANES,
    Lane,
    Process,
    TraceSink,
    class_name,
    moment,
    place_name,
    span_begin,
    span_end,
    step_slice,
)
from scheduler_svc.timeline.worker_clock import WorkerClock

MIN_GAP_S = 1e-4  # shorter ones are on every step and would fill the lane


@dataclass(slots=True)
class _Standing:
    """A batch under way: where it stands, and since when it was left there, if it was."""

    batch: Batch
    span_id: str
    cursor: Cursor = START
    stopped_s: float | None = None


class StepLanes:
    """Implements the core's `StepObserver`.

    Args:
        sink: Where events go.
        experts_by_layer: Experts of each layer of the model.
        life: Number of the worker's life; batches of different lives have the same ids.
        origin_s: The scheduler's time that the trace calls zero.
    """

    def __init__(self, sink: TraceSink, experts_by_layer: tuple[int, ...], life: int, origin_s: float) -> None:
        self._sink = sink
        self._experts_by_layer = experts_by_layer
        self._life = life
        self._origin_s = origin_s
        self._clock = WorkerClock()
        self._standing: dict[BatchId, _Standing] = {}
        self._last_ids: frozenset[BatchId] = frozenset()
        self._last_end_s = 0.0

    def batch_preempted(self, batch: Batch, by: tuple[Batch, ...]) -> None:
        """Records that the batch stands from the last step's end on."""
        if standing := self._standing.get(batch.batch_id):
            self._stop(standing, by=[other.batch_id for other in by])

    def step_answered(self, step: InFlight, result: StepResult, now_s: float) -> None:
        """Records a step, and what it shows to have happened before it."""
        sent_s, known_s = step.sent_s - self._origin_s, now_s - self._origin_s
        idle_s, duration_s = result.idle_ns * 1e-9, result.duration_ns * 1e-9
        begin_s, end_s = self._clock.place(idle_s, duration_s, sent_s, known_s)
        parts = [self._enter(batch, begin_s) for batch in step.batches]
        if any(part.cursor != result.reached for part in parts):  # one that was cut short before it began did nothing
            if not step.after_quiet:
                self._note_gap(max(self._last_end_s, begin_s - idle_s), begin_s)
            self._note_changes(parts, begin_s)
            self._note_step(step, result, parts, begin_s, end_s)
            for part in parts:
                part.cursor = result.reached
            self._last_ids = frozenset(part.batch.batch_id for part in parts)
            self._last_end_s = end_s
        self._leave([error.batch_id for error in result.batch_errors], end_s)

    def _enter(self, batch: Batch, at_s: float) -> _Standing:
        standing = self._standing.get(batch.batch_id)
        if standing is None:
            standing = self._standing[batch.batch_id] = _Standing(batch, f"{self._life}.{batch.batch_id}")
            self._sink.add(span_begin(Process.BATCHES, standing.span_id, _title(batch), at_s, _facts([batch])))
        return standing

    def _note_changes(self, parts: list[_Standing], at_s: float) -> None:
        """Records who goes on with this step, and who joined."""
        ids = [part.batch.batch_id for part in parts]
        for part in parts:
            if part.stopped_s is not None:
                self._resume(part, part.stopped_s, at_s)
        if len(ids) > 1 and self._last_ids != frozenset(ids):
            facts = {"batches": ids, "at": place_name(parts[0].cursor)}
            self._sink.add(moment(_lane(parts[0]), "join", f"join {_names(ids)}", at_s, facts))

    def _stop(self, standing: _Standing, by: list[BatchId]) -> None:
        place, at_s = place_name(standing.cursor), self._last_end_s
        standing.stopped_s = at_s
        facts = {"batch": standing.batch.batch_id, "at": place, "for": by}
        self._sink.add(moment(_lane(standing), "preemption", f"stopped at {place}", at_s, facts))
        self._sink.add(span_begin(Process.BATCHES, standing.span_id, f"stands at {place}", at_s, facts))

    def _resume(self, standing: _Standing, stopped_s: float, at_s: float) -> None:
        place = place_name(standing.cursor)
        stood_ms = round((at_s - stopped_s) * 1e3, 3)
        facts = {"batch": standing.batch.batch_id, "at": place, "stood_ms": stood_ms}
        self._sink.add(moment(_lane(standing), "resume", f"resumed at {place}", at_s, facts))
        self._sink.add(span_end(Process.BATCHES, standing.span_id, f"stands at {place}", at_s, facts))
        standing.stopped_s = None

    def _note_gap(self, begin_s: float, end_s: float) -> None:
        if end_s - begin_s >= MIN_GAP_S:
            self._sink.add(step_slice(Lane.GAPS, "idle while work waited", begin_s, end_s, {}))

    def _note_step(
        self, step: InFlight, result: StepResult, parts: list[_Standing], begin_s: float, end_s: float
    ) -> None:
        ids = [part.batch.batch_id for part in parts]
        facts = {
            "command": result.command_id,
            "batches": ids,
            "from": place_name(parts[0].cursor),
            "to": place_name(result.reached) if result.reached < parts[0].batch.end else "end",
            "from_depth": self._depth(parts[0].cursor),
            "to_depth": self._depth(result.reached),
            "num_layers": len(self._experts_by_layer),
            "is_cut_short": result.reached < step.command.until,
            **_facts([part.batch for part in parts]),
            "num_sampled": len(result.tokens),
            "predicted_ms": round(step.estimate_s * 1e3, 3),
            "measured_ms": round(result.duration_ns * 1e-6, 3),
            "idle_before_ms": round(result.idle_ns * 1e-6, 3),
        }
        for lane in {_lane(part) for part in parts}:
            self._sink.add(step_slice(lane, f"batch {_names(ids)}", begin_s, end_s, facts))

    def _depth(self, cursor: Cursor) -> float:
        """Returns a place in layers from the first one on, for drawing."""
        if cursor.stage is Stage.ATTENTION:
            return cursor.layer
        return round(cursor.layer + (1 + cursor.expert) / (1 + self._experts_by_layer[cursor.layer]), 4)

    def _leave(self, failed: list[BatchId], at_s: float) -> None:
        """Ends the spans of batches that are over: at their end, failed, or left by all their sequences."""
        for batch_id, standing in tuple(self._standing.items()):
            batch = standing.batch
            if standing.cursor >= batch.end or batch_id in failed or not batch.members:
                if standing.stopped_s is not None:
                    name = f"stands at {place_name(standing.cursor)}"
                    self._sink.add(span_end(Process.BATCHES, standing.span_id, name, at_s, {}))
                facts = {"is_failed": batch_id in failed}
                self._sink.add(span_end(Process.BATCHES, standing.span_id, _title(batch), at_s, facts))
                del self._standing[batch_id]


def _lane(standing: _Standing) -> Lane:
    return LANES[standing.batch.request_class]


def _title(batch: Batch) -> str:
    return f"{class_name(batch.request_class)} batch"


def _names(ids: Iterable[BatchId]) -> str:
    return " + ".join(map(str, ids))


def _facts(batches: list[Batch]) -> dict[str, object]:
    members = [member for batch in batches for member in batch.members]
    decodes = sum(m.first_position >= len(m.sequence.prompt_token_ids) for m in members)
    return {
        "num_tokens": sum(member.num_tokens for member in members),
        "num_prefill_sequences": len(members) - decodes,
        "num_decode_sequences": decodes,
        "sequences": [member.sequence.seq_id for member in members],
    }
