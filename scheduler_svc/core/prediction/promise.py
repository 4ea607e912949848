"""What latency-sensitive requests are promised, and how much time that leaves to best-effort work.

    arrival          first token           2nd due             3rd due
       |──── ttft ────▶|────── tpot ────────▶|────── tpot ───────▶|
                       | best-effort work | iteration | ...          the iteration has to begin early enough

A stream may be ahead of what it is due, and is kept so by a reserve, against prompts that cut in and predictions that
fail. Decides by what is there now and what is predicted: of the past it knows only when each stream's next token is
due. It knows no queue and no clock.
"""

import math
from collections import abc
from typing import NamedTuple

from scheduler_svc.core.state.batch import Member
from scheduler_svc.core.state.sequence import Sequence

# How far a stream is kept ahead, in targets. With less, a prompt that cuts in shortly before the end of an answer makes
# all of it late. Best-effort work pays it once for each answer (docs/measurements/simulation.md).
RESERVE = 2.0
# By what part best-effort work may make an iteration longer however late its streams are: so little that one which just
# keeps its target misses it by no more.
STRETCH = 0.1
# The part of a first token's target that is kept for what can't be stopped and for predictions that fail.
_FIRST_RESERVE = 0.25
_AS_ON_IDLE = 1.5  # a first token that is to come as soon as possible is in time up to so many times the idle time


class Awaited(NamedTuple):
    """A token that a stream waits for: when it is due, when the one before it came, and the stream's target."""

    due_s: float
    last_s: float
    tpot_s: float

    @classmethod
    def next_of(cls, sequence: Sequence) -> "Awaited":
        """Returns the next token of a sequence that is in no iteration."""
        if sequence.last_token_s is None:  # nothing is to delay it more than it may take
            return cls(sequence.due_s - _FIRST_RESERVE * sequence.ttft_s, sequence.arrival_s, 0.0)
        return cls(sequence.due_s, sequence.last_token_s, sequence.tpot_s)

    @classmethod
    def after_next_of(cls, sequence: Sequence, next_s: float) -> "Awaited":
        """Returns the token after the one that is being computed, and comes at `next_s`."""
        return cls(sequence.due_after(next_s), next_s, sequence.tpot_s)

    def latest_end_s(self, alone_s: float) -> float:
        """Returns by when an iteration has to end that takes `alone_s` seconds by itself.

            due - last      0 ... alone      alone + RESERVE * tpot      later
            may take        alone            ──── in between ──▶ tpot    up to the reserve

        Where it takes longer than the target by itself, it can't keep that: best-effort work may then make it miss the
        target by as much again, and no more. It may always make an iteration longer by `STRETCH`.
        """
        if not self.tpot_s:
            return self.due_s
        reserve_s, most_s = RESERVE * self.tpot_s, self.sustained_s(alone_s)
        gains = most_s == self.tpot_s  # else it is out of reach, or nearly, and no stream is ever ahead
        ahead = min(1.0, max(0.0, (self.due_s - self.last_s - alone_s) / reserve_s)) if gains else 1.0
        least_s = alone_s * (1.0 + STRETCH)
        return max(self.due_s - reserve_s, self.last_s + max(least_s, alone_s + (most_s - alone_s) * ahead))

    def sustained_s(self, alone_s: float) -> float:
        """Returns how long every iteration may take, one after the other, that takes `alone_s` seconds by itself."""
        return max(self.tpot_s, 2 * alone_s - self.tpot_s, alone_s * (1.0 + STRETCH)) if self.tpot_s else 0.0


def accept(sequence: Sequence, ttft_s: float, tpot_s: float) -> None:
    """Promises a sequence that arrived what it asks for itself, else what the service promises everybody."""
    own = sequence.targets
    sequence.ttft_s = ttft_s if own.ttft_s is None else own.ttft_s
    sequence.tpot_s = tpot_s if own.tpot_s is None else own.tpot_s
    sequence.due_s = sequence.arrival_s + sequence.ttft_s


def awaited_by(member: Member, starts_s: float, rest_s: float) -> Awaited:
    """Returns the token that a member waits for of an iteration that starts then.

    Args:
        member: A latency-sensitive sequence's part in the iteration.
        starts_s: When it starts, which is the end of the one before, where that is under way.
        rest_s: What is left of the member's prompt after it, in seconds.
    """
    if member.first_position + member.num_tokens > member.sequence.num_tokens:  # the token before it is being sampled
        return Awaited.after_next_of(member.sequence, starts_s)
    token = Awaited.next_of(member.sequence)
    return token._replace(due_s=token.due_s - rest_s)


def room_s(awaited: abc.Iterable[Awaited], alone_s: float, starts_s: float) -> float:
    """Returns how long an iteration may take that begins then, and takes `alone_s` seconds by itself, to be in time."""
    return min((token.latest_end_s(alone_s) for token in awaited), default=math.inf) - starts_s


def sustained_s(awaited: abc.Iterable[Awaited], alone_s: float) -> float:
    """Returns how long every iteration may take, one after the other, where each takes `alone_s` seconds by itself."""
    return min((token.sustained_s(alone_s) for token in awaited), default=0.0)


def first_token_within_s(sequence: Sequence, idle_s: float) -> float:
    """Returns how long after its arrival a first token is in time, where an idle worker would take `idle_s`."""
    return sequence.ttft_s or _AS_ON_IDLE * idle_s


def is_paced(sequence: Sequence) -> bool | None:
    """Whether an answer's further tokens came in time, on average; None where there were none.

    Where they are to come as soon as possible there is nothing to miss.
    """
    num_gaps = len(sequence.output_token_ids) - 1
    if num_gaps < 1 or sequence.first_token_s is None or sequence.last_token_s is None:
        return None
    return not sequence.tpot_s or sequence.last_token_s - sequence.first_token_s <= num_gaps * sequence.tpot_s
