"""What an operator sets of sessions."""

from dataclasses import dataclass
from typing import Annotated

from qllm.settings import ADVANCED, MEMORY, Setting

from scheduler_svc.core.sessions.tool_times import MAX_DURATION_S


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """For how long the cache of a session is kept between two of its turns.

    Attributes:
        session_min_records: How many durations of tools have to be known before any of them is believed.
    """

    session_ttl_s: Annotated[
        float | None,
        Setting(0, MAX_DURATION_S, panel=MEMORY, unset="as long as is worth it"),
        "Keeps what was computed of a session for so many seconds after each of its turns, on the device or moved off "
        "it. A session is a program whose requests carry one session_id, and which comes again when a tool has "
        "run. Left out, the time follows from how long the tool took before, and from what its return would cost; with "
        "0 nothing is kept.",
    ] = None
    # Calls of the tools of coding and browsing agents mostly return within it, so that little is lost where nothing is
    # known, and a person who is away holds no memory.
    session_first_ttl_s: Annotated[
        float,
        Setting(0, MAX_DURATION_S, panel=ADVANCED),
        "Keeps what was computed of a session for so many seconds while too few tools have run to tell how long one "
        "takes. It has an effect without --session-ttl-s only.",
    ] = 2.0
    session_min_records: int = 100
