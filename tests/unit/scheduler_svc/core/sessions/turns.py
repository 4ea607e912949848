"""Turns of programs, made by hand."""

from itertools import count

from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, SessionTurn, StopConditions

_seq_ids = count(1)


def turn(
    session_id: str | None, arrival_s: float = 0.0, *, tool: str = "", last: bool = False, salt: bytes = b""
) -> Sequence:
    """Makes a request; without a session's id it is a turn of no program."""
    sequence = Sequence(
        SeqId(next(_seq_ids)),
        RequestClass.BEST_EFFORT,
        (1,) * 20,
        SamplingParams(),
        StopConditions(3),
        arrival_s,
        salt=salt,
    )
    if session_id is not None:
        sequence.session = SessionTurn(session_id, tool, last)
    return sequence
