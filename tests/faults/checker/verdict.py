"""Says of one record what is wrong with it, against what the service promises.

    the client left                                -> LEFT        what came until then is right
    refused before any token, told when to return  -> REFUSED     it was not live when a fault happened
    ended with all tokens                          -> WHOLE
    cut off by a fault that ends streams           -> CUT_OFF     a killed scheduler, a cut connection
    anything else                                  -> FLAWED, and the flaws say how

Pure: knows no process and no clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.faults.checker.tokens import Difference, compare
from tests.faults.records import Message, Record


class Flaw(StrEnum):
    """What can be wrong with a record."""

    LOST = "lost"  # it ended with an error that nothing excuses
    HUNG = "hung"  # it did not end
    ENDED_TWICE = "ended twice"
    NO_LAST_MESSAGE = "no last message"  # it ended well without saying why
    GAP = "gap"  # a sequence number is missing
    REPEATED = "repeated"  # a sequence number came twice, or an earlier one came later
    TOKENS_MISSING = "tokens missing"
    TOKENS_TWICE = "tokens twice"
    WRONG_TOKENS = "wrong tokens"
    MISCOUNTED = "miscounted"  # the last message says another number of tokens


class Outcome(StrEnum):
    """How a request went."""

    WHOLE = "whole"
    LEFT = "left"
    REFUSED = "refused"
    CUT_OFF = "cut off"
    FLAWED = "flawed"


@dataclass(frozen=True, slots=True)
class Span:
    """A fault as clients may notice it.

    Attributes:
        from_s: When it happened.
        until_s: When the service served again.
        ends_streams: Whether streams that are open may end with it; otherwise they go on.
    """

    from_s: float
    until_s: float
    ends_streams: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a request."""

    outcome: Outcome
    flaws: tuple[Flaw, ...] = ()


_REFUSALS = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
_CUTS = ("UNAVAILABLE", "CANCELLED")
_OF_TOKENS = {
    Difference.MISSING: Flaw.TOKENS_MISSING,
    Difference.TWICE: Flaw.TOKENS_TWICE,
    Difference.OTHER: Flaw.WRONG_TOKENS,
}


def judge(record: Record, expected: Sequence[int] | None, spans: Sequence[Span]) -> Verdict:
    """Returns the verdict on a record that will not change any more.

    Args:
        record: What the client saw; one without an end hung.
        expected: The tokens of its plan where nothing happens; None where they are not known.
        spans: The faults, in any order.
    """
    outcome, flaws = _judge_end(record, spans)
    flaws += _judge_numbers(record.messages)
    flaws += _judge_tokens(record, expected, is_whole=outcome is Outcome.WHOLE)
    return Verdict(Outcome.FLAWED if flaws else outcome, tuple(dict.fromkeys(flaws)))


def _judge_end(record: Record, spans: Sequence[Span]) -> tuple[Outcome, list[Flaw]]:
    num_lasts = sum(bool(message.finish) for message in record.messages)
    last_is_last = not num_lasts or bool(record.messages[-1].finish)
    twice = [] if num_lasts <= 1 and last_is_last else [Flaw.ENDED_TWICE]
    if record.left:
        return Outcome.LEFT, twice
    if record.ended_s is None:
        return Outcome.FLAWED, [Flaw.HUNG, *twice]
    if record.status == "OK":
        return Outcome.WHOLE, twice if num_lasts else [Flaw.NO_LAST_MESSAGE]
    if num_lasts:  # it had ended well, and then ended once more
        return Outcome.FLAWED, [Flaw.ENDED_TWICE]
    return _judge_error(record, record.ended_s, spans)


def _judge_error(record: Record, ended_s: float, spans: Sequence[Span]) -> tuple[Outcome, list[Flaw]]:
    """An error is right where a fault excuses it, or where it came before anything had been promised."""
    if _may_be_cut_off(record, ended_s, spans):
        return Outcome.CUT_OFF, []
    if _may_be_refused(record, ended_s, spans):
        return Outcome.REFUSED, []
    return Outcome.FLAWED, [Flaw.LOST]


def _may_be_cut_off(record: Record, ended_s: float, spans: Sequence[Span]) -> bool:
    meets = any(span.ends_streams and record.sent_s <= span.until_s and span.from_s <= ended_s for span in spans)
    return meets and record.status in _CUTS


def _may_be_refused(record: Record, ended_s: float, spans: Sequence[Span]) -> bool:
    if record.messages or record.status not in _REFUSALS or record.retry_after_s is None:
        return False
    return not any(record.sent_s < span.from_s <= ended_s for span in spans)


def _judge_numbers(messages: Sequence[Message]) -> list[Flaw]:
    """Sequence numbers count the messages of a stream: 0, 1, 2, ..."""
    flaws, expected = [], 0
    for message in messages:
        if message.sequence_number > expected:
            flaws.append(Flaw.GAP)
        elif message.sequence_number < expected:
            flaws.append(Flaw.REPEATED)
        expected = max(expected, message.sequence_number + 1)
    return flaws


def _judge_tokens(record: Record, expected: Sequence[int] | None, *, is_whole: bool) -> list[Flaw]:
    got = record.token_ids
    flaws: list[Flaw] = []
    said = [message.num_completion_tokens for message in record.messages if message.num_completion_tokens is not None]
    if said and said[-1] != len(got):
        flaws.append(Flaw.MISCOUNTED)
    if expected is not None and (difference := compare(got, expected, is_whole=is_whole)) is not None:
        flaws.append(_OF_TOKENS[difference])
    return flaws
