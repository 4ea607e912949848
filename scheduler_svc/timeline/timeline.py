"""What the engine tells a trace: requests that come and go, and workers that join. Times are event-loop seconds."""

from datetime import UTC, datetime
from itertools import count

from scheduler_svc.core.observer import StepObserver
from scheduler_svc.core.state.results import WorkerModel
from scheduler_svc.core.state.sequence import Sequence
from scheduler_svc.timeline.events import (
    Process,
    TraceSink,
    class_name,
    headings,
    span_begin,
    span_end,
    span_moment,
)
from scheduler_svc.timeline.step_lanes import StepLanes


class Timeline:
    """The trace of one scheduler process.

    Args:
        sink: Where events go.
        origin_s: The time now, which the trace calls zero.
    """

    def __init__(self, sink: TraceSink, origin_s: float) -> None:
        self._sink = sink
        self._origin_s = origin_s
        self._lives = count(1)
        for event in headings():
            sink.add(event)
        began = datetime.now(UTC).isoformat(timespec="milliseconds")
        sink.add({"ph": "M", "pid": Process.WORKER, "name": "process_labels", "args": {"labels": f"0 s is {began}"}})

    def worker_joined(self, model: WorkerModel) -> StepObserver:
        """Returns what is to watch the core of a new life of the worker, which runs this model."""
        return StepLanes(self._sink, model.experts_by_layer, next(self._lives), self._origin_s)

    def request_arrived(self, sequence: Sequence) -> None:
        """Begins a request's span."""
        facts = {
            "sequence": sequence.seq_id,
            "num_prompt_tokens": len(sequence.prompt_token_ids),
            "max_tokens": sequence.stop.max_tokens,
        }
        at_s = sequence.arrival_s - self._origin_s
        self._sink.add(span_begin(Process.REQUESTS, str(sequence.seq_id), _title(sequence), at_s, facts))

    def request_ended(self, sequence: Sequence, now_s: float) -> None:
        """Ends a request's span, for whatever reason, and records its phases inside."""
        span_id = str(sequence.seq_id)
        for name, begin_s, until_s in _phases(sequence, now_s):
            self._sink.add(span_begin(Process.REQUESTS, span_id, name, begin_s - self._origin_s, {}))
            self._sink.add(span_end(Process.REQUESTS, span_id, name, until_s - self._origin_s, {}))
        if sequence.first_token_s is not None:
            at_s = sequence.first_token_s - self._origin_s
            self._sink.add(span_moment(Process.REQUESTS, span_id, "first token", at_s))
        facts = {"num_output_tokens": len(sequence.output_token_ids), "num_preemptions": sequence.num_preemptions}
        self._sink.add(span_end(Process.REQUESTS, span_id, _title(sequence), now_s - self._origin_s, facts))


def _title(sequence: Sequence) -> str:
    return f"{class_name(sequence.request_class)} request"


def _phases(sequence: Sequence, end_s: float) -> list[tuple[str, float, float]]:
    """Returns the phases that it went through, in order, with begin and end."""
    names = ("queued", "prefill", "decode")
    marks = (sequence.first_run_s, sequence.first_token_s, end_s)
    phases, begin_s = [], sequence.arrival_s
    for name, mark_s in zip(names, marks, strict=True):
        until_s = end_s if mark_s is None else mark_s
        phases.append((name, begin_s, until_s))
        if mark_s is None:
            break
        begin_s = until_s
    return phases
