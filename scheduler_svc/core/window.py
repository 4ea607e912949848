"""The commands sent to the worker and not yet answered, and the estimated time that they still take.

The worker runs them in order, so the time that has passed since the first one began
counts as done. Time is an argument.
"""

from collections import deque
from dataclasses import dataclass, replace

from scheduler_svc.core.state.batch import Batch
from scheduler_svc.core.state.commands import Advance
from scheduler_svc.core.state.sequence import Sequence


@dataclass(frozen=True, slots=True)
class InFlight:
    """One Advance that the worker has not answered; replaced when it is cut short.

    Attributes:
        estimate_s: Predicted seconds.
        charged_s: Predicted seconds charged to best-effort work when it was sent.
        be_fraction: Share of its time that is charged to best-effort work, in [0, 1].
        after_quiet: Whether the worker had nothing to do before it, so that its idle time is nobody's fault.
    """

    command: Advance
    batches: tuple[Batch, ...]
    estimate_s: float
    sent_s: float
    charged_s: float
    be_fraction: float
    after_quiet: bool

    @property
    def may_stop(self) -> bool:
        """Whether it can be cut short: it allows it, and nothing has begun that needs its end."""
        # The dispatcher allows it to steps of one batch only.
        return self.command.preempt_at is not None and self.batches[0].sequel is None


class CommandWindow:
    """Advances in flight, in the order in which they were sent."""

    def __init__(self) -> None:
        self._in_flight: deque[InFlight] = deque()
        self._estimate_s = 0.0
        self._head_began_s = 0.0

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def head(self) -> InFlight | None:
        """The command that runs, or is about to; None while there is none."""
        return self._in_flight[0] if self._in_flight else None

    @property
    def sequences(self) -> set[Sequence]:
        """Those of all commands in flight."""
        return {member.sequence for step in self._in_flight for batch in step.batches for member in batch.members}

    def takes(self, batch: Batch) -> bool:
        """Whether a step of this batch may be sent beside those in flight: a suspect's is to be in flight alone.

        An answer may be lost together with its worker, so of two steps it would not be known which one it died of.
        """
        return not self._in_flight or not (batch.is_suspect or any(b.is_suspect for b in self._in_flight[-1].batches))

    @property
    def may_be_preempted(self) -> bool:
        """Whether some command in flight can be cut short and was not yet."""
        return any(entry.may_stop and not entry.batches[0].is_preempted for entry in self._in_flight)

    def is_overdue(self, now_s: float) -> bool:
        """Whether the command that runs has taken longer than estimated."""
        return bool(self._in_flight) and self._head_left_s(now_s) <= 0.0

    def outstanding_s(self, now_s: float) -> float:
        """Estimates how long the commands in flight still take; 0 when there are none or they are overdue."""
        if not self._in_flight:
            return 0.0
        return self._head_left_s(now_s) + max(0.0, self._estimate_s - self._in_flight[0].estimate_s)

    def firm_s(self, now_s: float) -> float:
        """Estimates how long those commands in flight still take that can't be cut short."""
        if not self._in_flight:
            return 0.0
        head, *others = self._in_flight
        head_s = 0.0 if head.may_stop else self._head_left_s(now_s)
        return head_s + sum(entry.estimate_s for entry in others if not entry.may_stop)

    def send(self, entry: InFlight) -> None:
        """Adds a command that is being sent."""
        if not self._in_flight:
            self._head_began_s = entry.sent_s
        self._in_flight.append(entry)
        self._estimate_s += entry.estimate_s

    def preempt(self, now_s: float, unit_s: float) -> tuple[InFlight, ...]:
        """Cuts short the commands that may be: the one that runs takes a unit more at most, those behind it nothing.

        Returns what was cut short; the first one's and the last one's ids are what the worker must be told.
        """
        may_stop = tuple(entry for entry in self._in_flight if entry.may_stop)
        # An estimate counts from a step's beginning: what has passed of it, and the unit that it is in or less.
        head_s = now_s - self._head_began_s + min(unit_s, self._head_left_s(now_s))
        for i, entry in enumerate(self._in_flight):
            if entry.may_stop:
                self._in_flight[i] = replace(entry, estimate_s=0.0 if i else head_s)
        self._estimate_s = sum(entry.estimate_s for entry in self._in_flight)
        return may_stop

    def answer(self, command_id: int, now_s: float) -> InFlight | None:
        """Takes the command that was answered; None if it is not the first in flight."""
        if not self._in_flight or self._in_flight[0].command.command_id != command_id:
            return None
        entry = self._in_flight.popleft()
        self._estimate_s = self._estimate_s - entry.estimate_s if self._in_flight else 0.0  # no rounding errors add up
        # The next one began when this answer left the worker. The way of the answer is part of the lead.
        self._head_began_s = now_s
        return entry

    def _head_left_s(self, now_s: float) -> float:
        return max(0.0, self._in_flight[0].estimate_s - (now_s - self._head_began_s))
