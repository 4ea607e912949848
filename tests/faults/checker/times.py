"""How long after a fault it was noticed, and how long until the service answered again. Pure."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.faults.records import Record


@dataclass(frozen=True, slots=True)
class Sign:
    """Something that showed from outside that the service noticed a fault."""

    at_s: float
    what: str


def time_to_detect(signs: Iterable[Sign], fault_s: float) -> float | None:
    """Returns the time from a fault to the first sign of it; None where there was none."""
    return min((sign.at_s - fault_s for sign in signs if sign.at_s >= fault_s), default=None)


def time_to_serve_again(records: Sequence[Record], fault_s: float) -> float | None:
    """Returns the time from a fault to the first token of a request that was sent after it; None where none came."""
    firsts = (record.first_token_s for record in records if record.sent_s >= fault_s)
    return min((first_s - fault_s for first_s in firsts if first_s is not None), default=None)


def longest_silence(record: Record, fault_s: float) -> float | None:
    """Returns how long a stream that was under way stood still around a fault; None where it was not, or ended there.

    That is the time between the last message before the fault and the first one after it, or with that one, whichever
    is the longest of the pauses that the fault can have caused: those that end after it.
    """
    times_s = [message.at_s for message in record.messages]
    if not times_s or times_s[0] > fault_s:
        return None
    pauses = [after - before for before, after in itertools.pairwise(times_s) if after >= fault_s]
    return max(pauses, default=None)
