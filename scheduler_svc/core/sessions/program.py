"""One program between its turns, and what is kept of it. State alone."""

from dataclasses import dataclass, field

from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.sequence import Sequence

# The salt and the id of a session: nobody meets the program of another salt.
ProgramKey = tuple[bytes, str]


@dataclass(frozen=True, slots=True)
class Kept:
    """A finished sequence whose cache is kept for the next turn of its program, and until when."""

    sequence: Sequence
    until_s: float


@dataclass(slots=True)
class Program:
    """One program.

    Attributes:
        waits: The requests of it that wait or run, and whether each came again and found nothing kept.
        num_turns: Turns that ended whole.
        ended_s: When its last turn ended; None: another one has come since.
        tool: What that turn called.
        reload_s: What it would cost to have that turn's cache again, in seconds.
        kept: What is kept of it.
    """

    arrival_s: float
    waits: dict[SeqId, bool] = field(default_factory=dict)
    num_turns: int = 0
    ended_s: float | None = None
    tool: str = ""
    reload_s: float = 0.0
    kept: Kept | None = None


def key_of(sequence: Sequence) -> ProgramKey | None:
    """Returns which program a request is a turn of; None: of none."""
    return None if sequence.session is None else (sequence.salt, sequence.session.session_id)
