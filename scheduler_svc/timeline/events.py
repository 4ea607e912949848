"""The shapes of trace events: slices, moments and nested spans, on the lanes of three processes.

    worker      latency-sensitive | best-effort | gaps      what ran, step by step; time lost while work waited
    batches     one span a batch, inside it the times when it stood still
    requests    one span a request, inside it queued, prefill and decode

Times come in seconds of the scheduler's clock. Source: Trace Event Format, Google, 2016: phases X, i, b, n, e and M.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Protocol

from scheduler_svc.core.state.cursor import Cursor, Stage
from scheduler_svc.core.state.sequence import RequestClass

Event = Mapping[str, object]
Facts = Mapping[str, object]


class TraceSink(Protocol):
    """Where events go."""

    def add(self, event: Event) -> None:
        """Takes an event, without waiting."""


class Process(IntEnum):
    """The groups of lanes, from top to bottom."""

    WORKER = 1
    BATCHES = 2
    REQUESTS = 3


class Lane(IntEnum):
    """The worker's lanes, from top to bottom."""

    LATENCY_SENSITIVE = 1
    BEST_EFFORT = 2
    GAPS = 3


LANES = {
    RequestClass.LATENCY_SENSITIVE: Lane.LATENCY_SENSITIVE,
    RequestClass.BEST_EFFORT: Lane.BEST_EFFORT,
}


def class_name(request_class: RequestClass) -> str:
    """Returns the class as the timeline shows it."""
    return request_class.name.lower().replace("_", "-")


def place_name(cursor: Cursor) -> str:
    """Returns a place in the model as the timeline shows it."""
    if cursor.stage is Stage.ATTENTION:
        return f"layer {cursor.layer}"
    return f"layer {cursor.layer}, expert {cursor.expert}"


def headings() -> Iterable[Event]:
    """Yields the events that name the lanes and put them in order."""
    for process in Process:
        yield {"ph": "M", "pid": process, "name": "process_name", "args": {"name": process.name.lower()}}
        yield {"ph": "M", "pid": process, "name": "process_sort_index", "args": {"sort_index": int(process)}}
    for lane in Lane:
        about = {"ph": "M", "pid": Process.WORKER, "tid": lane}
        yield {**about, "name": "thread_name", "args": {"name": lane.name.lower().replace("_", "-")}}
        yield {**about, "name": "thread_sort_index", "args": {"sort_index": int(lane)}}


def step_slice(lane: Lane, name: str, begin_s: float, end_s: float, facts: Facts) -> Event:
    """Returns something that a lane of the worker did."""
    span = {"ts": _us(begin_s), "dur": _us(end_s - begin_s)}
    return {"ph": "X", "pid": Process.WORKER, "tid": lane, "cat": "step", "name": name, **span, "args": facts}


def moment(lane: Lane, category: str, name: str, at_s: float, facts: Facts) -> Event:
    """Returns something that happened on a lane of the worker at one moment."""
    about = {"pid": Process.WORKER, "tid": lane, "cat": category, "name": name}
    return {"ph": "i", "s": "t", **about, "ts": _us(at_s), "args": facts}


def span_begin(process: Process, span_id: str, name: str, at_s: float, facts: Facts) -> Event:
    """Returns the begin of a span, which may lie inside others of the same id."""
    return {**_span("b", process, span_id, name, at_s), "args": facts}


def span_moment(process: Process, span_id: str, name: str, at_s: float) -> Event:
    """Returns something that happened inside a span."""
    return _span("n", process, span_id, name, at_s)


def span_end(process: Process, span_id: str, name: str, at_s: float, facts: Facts) -> Event:
    """Returns the end of a span."""
    return {**_span("e", process, span_id, name, at_s), "args": facts}


def _span(phase: str, process: Process, span_id: str, name: str, at_s: float) -> dict[str, object]:
    return {"ph": phase, "pid": process, "cat": process.name.lower(), "id": span_id, "name": name, "ts": _us(at_s)}


def _us(time_s: float) -> float:
    return round(time_s * 1e6, 1)
