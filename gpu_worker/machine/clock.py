"""Times units of work where they run, and keeps the host from running far ahead of the device.

    host     |enqueue 0|enqueue 1|··waits··|enqueue 2|           a device runs what was enqueued some time ago:
    device             |unit 0 . . . . . . |unit 1 . . . .|      stopping a batch can't stop what is enqueued already

On a CPU a unit has run when its call returns, and there is nothing to wait for.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple, Protocol

import torch

from gpu_worker.errors import one_line
from gpu_worker.machine.devices import is_host

logger = logging.getLogger(__name__)


class Clock(Protocol):
    """Marks points in the work of one thread. A mark means nothing but to the clock that made it."""

    def mark(self) -> Any:
        """Marks the end of all the work so far."""

    def elapsed_ns(self, begin: Any, end: Any) -> int:
        """Nanoseconds between two marks that have been settled."""

    def enqueued(self, begin: Any, end: Any) -> None:
        """Says that a unit of work lies between two marks."""

    def keep_pace(self) -> None:
        """Waits until another unit may be enqueued without putting off a stop too long."""

    def settle(self) -> None:
        """Waits until all that was marked has been done."""


class HostClock:
    """The clock of work that is done when a call returns; marks are performance counter readings in nanoseconds."""

    def mark(self) -> int:
        """Now."""
        return time.perf_counter_ns()

    def elapsed_ns(self, begin: int, end: int) -> int:
        """Nanoseconds between two marks."""
        return end - begin

    def enqueued(self, begin: int, end: int) -> None:
        """Nothing: the unit is done."""

    def keep_pace(self) -> None:
        """Never waits."""

    def settle(self) -> None:
        """Never waits."""


class WaitingClock(HostClock):
    """The clock of a device whose events can't be used: each mark waits for all before it, so nothing is on its way.

    Args:
        synchronize: Waits for all that the device has to do.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize

    def mark(self) -> int:
        """Now, when all the work so far is done."""
        self._synchronize()
        return super().mark()


class Event(Protocol):
    """A point in a device's work; torch.cuda.Event has more."""

    def record(self) -> None:
        """Puts the point at the end of the work so far."""

    def query(self) -> bool:
        """Whether it has been passed."""

    def synchronize(self) -> None:
        """Waits until it has been passed."""

    def elapsed_time(self, end_event: Any) -> Any:
        """Milliseconds from it to another, both of which have been passed."""


class DeviceClock:
    """The clock of a device that runs behind the host; marks are events in its work.

    A unit may be enqueued while another runs, if both together are expected to take at most `run_ahead_ms`, reckoned
    with the length of the unit that ended last: so the device is never idle for want of small units, and of large ones
    never more than one is on its way.

    Args:
        new_event: Makes an event that takes times.
        run_ahead_ms: Longest work that may be on its way.
    """

    def __init__(self, new_event: Callable[[], Event], run_ahead_ms: float) -> None:
        self._new_event = new_event
        self._run_ahead_ms = run_ahead_ms
        self._on_their_way: deque[tuple[Event, Event]] = deque()
        self._unit_ms = run_ahead_ms  # until one has been timed, one at a time
        self._last: Event | None = None

    def mark(self) -> Event:
        """An event at the end of the work so far."""
        self._last = self._new_event()
        self._last.record()
        return self._last

    def elapsed_ns(self, begin: Event, end: Event) -> int:
        """Nanoseconds between two events that have been passed."""
        return int(begin.elapsed_time(end) * 1e6)

    def enqueued(self, begin: Event, end: Event) -> None:
        """Remembers the unit until it is done."""
        self._on_their_way.append((begin, end))

    def keep_pace(self) -> None:
        """Waits for the oldest units while one more would be too many."""
        while self._on_their_way:
            begin, end = self._on_their_way[0]
            if not end.query():
                if (len(self._on_their_way) + 1) * self._unit_ms <= self._run_ahead_ms:
                    return
                end.synchronize()
            self._unit_ms = begin.elapsed_time(end)
            self._on_their_way.popleft()

    def settle(self) -> None:
        """Waits for the last mark; all others lie before it."""
        if self._last is not None:
            self._last.synchronize()
        self._on_their_way.clear()


class Stretch(NamedTuple):
    """The time between two marks, and which kinds of work it counts for, each its share; one below 0 takes away."""

    shares: Mapping[str, float]
    begin: Any
    end: Any


class Stopwatch:
    """Sums up what different kinds of work took, by a clock.

    Args:
        clock: The clock that makes the marks.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stretches: list[Stretch] = []

    def share_out(self, *stretches: Stretch) -> None:
        """Counts stretches of time for their kinds of work."""
        self._stretches.extend(stretches)

    def read(self) -> dict[str, int]:
        """Waits until all of it is done, and returns the nanoseconds of each kind."""
        self._clock.settle()
        sums: dict[str, float] = {}
        for shares, begin, end in self._stretches:
            elapsed_ns = self._clock.elapsed_ns(begin, end)
            for kind, share in shares.items():
                sums[kind] = sums.get(kind, 0.0) + share * elapsed_ns
        return {kind: round(total_ns) for kind, total_ns in sums.items()}


HOST_CLOCK = HostClock()


def _new_cuda_event() -> Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def clock_of(
    device: torch.device,
    run_ahead_ms: float,
    new_event: Callable[[], Event] = _new_cuda_event,
    synchronize: Callable[[], None] = torch.cuda.synchronize,
) -> Clock:
    """The clock that a device needs; its events are tried first.

    Args:
        device: The device.
        run_ahead_ms: Longest work that may be on its way.
        new_event: Makes an event that takes times.
        synchronize: Waits for all that the device has to do.
    """
    if is_host(device):
        return HOST_CLOCK
    if failure := _try_events(new_event):
        logger.warning("clock way=events failed=%r instead=waiting for the device at each mark", failure)
        return WaitingClock(synchronize)
    return DeviceClock(new_event, run_ahead_ms)


def _try_events(new_event: Callable[[], Event]) -> str:
    """Why time can't be told from two events, or nothing if it can."""
    try:
        begin, end = new_event(), new_event()
        begin.record()
        end.record()
        end.synchronize()
        is_told = end.query() and 0 <= begin.elapsed_time(end) < inf
    except RuntimeError as error:
        return f"{type(error).__name__}: {one_line(error)}"
    return "" if is_told else "no time between two events that have been passed"
