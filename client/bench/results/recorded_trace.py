"""Reads what `qllm-scheduler --trace` wrote: steps of the worker, and what happened between them, in milliseconds.

The file may lack its end: the scheduler still runs, or was killed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qllm.client.bench.errors import BadFile
from qllm.client.files import FileRefused, read_text
from qllm.client.messages import RequestClass

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
_LANES = {1: LS, 2: BE}  # thread ids of the process "worker"
_GAPS = 3
_WORKER, _REQUESTS = 1, 3

RawEvent = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """What a lane of the worker did; depths are places in the model in layers, where 1.5 is half of layer 1's stages.

    `predicted_ms` is what the scheduler took the step for when it sent it; None for a step that was cut short.
    """

    lane: RequestClass
    batch_ids: tuple[int, ...]
    begin_ms: float
    end_ms: float
    from_depth: float
    to_depth: float
    num_tokens: int
    num_sequences: int
    predicted_ms: float | None = None
    measured_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    """A batch left standing inside its iteration; `end_ms` is None if it had not gone on when the trace ended."""

    batch_id: int
    lane: RequestClass
    place: str
    begin_ms: float
    end_ms: float | None


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened at one moment: a join on a lane, or what a request met."""

    lane: RequestClass
    name: str
    at_ms: float


@dataclass(slots=True)
class RecordedTrace:
    """A trace in terms of the worker's lanes."""

    num_layers: int = 0
    steps: list[Step] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    joins: list[Moment] = field(default_factory=list)
    arrivals: list[Moment] = field(default_factory=list)
    first_tokens: list[Moment] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class View:
    """The part of a trace that is looked at, in milliseconds of the trace."""

    begin_ms: float
    end_ms: float

    def shows(self, begin_ms: float, end_ms: float) -> bool:
        """Whether something lies at least partly inside."""
        return end_ms >= self.begin_ms and begin_ms <= self.end_ms

    def x(self, at_ms: float) -> float:
        """Returns a time as milliseconds after the view's begin."""
        return at_ms - self.begin_ms


def read_trace(path: Path) -> RecordedTrace:
    """Reads a trace.

    Raises:
        BadFile: The file cannot be read or holds no steps.
    """
    try:
        events = list(_events(read_text(path)))
    except FileRefused as refusal:
        raise BadFile(str(refusal)) from None
    except ValueError as error:
        raise BadFile(f"{path}: {error}") from None
    trace = RecordedTrace()
    try:
        _fill(trace, events)
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(f"{path}: not a trace of qllm-scheduler: {error!r}") from None
    if not trace.steps:
        raise BadFile(f"{path}: holds no steps of a worker; record one with qllm-scheduler --trace FILE")
    trace.steps.sort(key=lambda step: step.begin_ms)
    return trace


def _events(text: str) -> Iterator[RawEvent]:
    """Yields the events; a last line that was cut off is left out."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("["):
        raise ValueError("not a trace of qllm-scheduler: it does not begin with [")
    for number, line in enumerate(lines[1:], 2):
        body = line.strip().rstrip(",")
        if body in {"", "]"}:
            continue
        try:
            yield json.loads(body)
        except ValueError:
            if number < len(lines):
                raise ValueError(f"not a trace of qllm-scheduler: line {number} is no event") from None


def _fill(trace: RecordedTrace, events: Iterable[RawEvent]) -> None:
    standing: dict[int, Stop] = {}
    classes: dict[str, RequestClass] = {}
    for event in sorted((e for e in events if "ts" in e), key=lambda e: float(e["ts"])):
        if event["pid"] == _WORKER and event["ph"] == "X":
            _add_slice(trace, event)
        elif event["pid"] == _WORKER:
            _add_moment(trace, event, standing)
        elif event["pid"] == _REQUESTS:
            _add_request(trace, event, classes)
    trace.stops += standing.values()
    trace.stops.sort(key=lambda stop: stop.begin_ms)


def _add_slice(trace: RecordedTrace, event: RawEvent) -> None:
    begin_ms = event["ts"] / 1e3
    end_ms = begin_ms + event["dur"] / 1e3
    if event["tid"] == _GAPS:
        trace.gaps.append((begin_ms, end_ms))
        return
    facts = event["args"]
    trace.num_layers = max(trace.num_layers, facts["num_layers"])
    trace.steps.append(
        Step(
            lane=_LANES[event["tid"]],
            batch_ids=tuple(facts["batches"]),
            begin_ms=begin_ms,
            end_ms=end_ms,
            from_depth=facts["from_depth"],
            to_depth=facts["to_depth"],
            num_tokens=facts["num_tokens"],
            num_sequences=facts["num_prefill_sequences"] + facts["num_decode_sequences"],
            predicted_ms=None if facts["is_cut_short"] else facts["predicted_ms"],
            measured_ms=facts["measured_ms"],
        )
    )


def _add_moment(trace: RecordedTrace, event: RawEvent, standing: dict[int, Stop]) -> None:
    lane, at_ms, facts = _LANES[event["tid"]], event["ts"] / 1e3, event["args"]
    if event["cat"] == "join":
        trace.joins.append(Moment(lane, event["name"], at_ms))
    elif event["cat"] == "preemption":
        standing[facts["batch"]] = Stop(facts["batch"], lane, facts["at"], at_ms, None)
    elif event["cat"] == "resume" and (stop := standing.pop(facts["batch"], None)):
        trace.stops.append(Stop(stop.batch_id, stop.lane, stop.place, stop.begin_ms, at_ms))


def _add_request(trace: RecordedTrace, event: RawEvent, classes: dict[str, RequestClass]) -> None:
    span_id, name, at_ms = event["id"], event["name"], event["ts"] / 1e3
    if event["ph"] == "b" and name.endswith(" request"):
        classes[span_id] = LS if name.startswith("latency") else BE
        trace.arrivals.append(Moment(classes[span_id], f"request {span_id}", at_ms))
    elif event["ph"] == "n" and span_id in classes:
        trace.first_tokens.append(Moment(classes[span_id], f"request {span_id}", at_ms))
