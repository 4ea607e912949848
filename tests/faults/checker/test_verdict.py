"""Each verdict of the checker is reached by a record that has the fault, and by none that is whole."""

import pytest

from tests.faults.checker.verdict import Flaw, Outcome, Span, Verdict, judge
from tests.faults.records import Class, Message, Plan, Record

EXPECTED = (11, 12, 13, 14, 15, 16)
FAULT_S = 5.0
GOES_ON = Span(FAULT_S, 8.0, ends_streams=False)
ENDS_STREAMS = Span(FAULT_S, 8.0, ends_streams=True)


def record(*chunks: tuple[int, ...], sent_s: float = 1.0, status: str = "OK", **fields: object) -> Record:
    """A record whose messages bring these tokens, one a second, and which then ended; the last one says so if OK."""
    messages = [Message(sent_s + 1 + i, i, chunk) for i, chunk in enumerate(chunks)]
    if status == "OK":
        last = messages[-1]
        num_tokens = sum(len(chunk) for chunk in chunks)
        messages[-1] = Message(last.at_s, last.sequence_number, last.token_ids, "length", num_tokens)
    ended_s = (messages[-1].at_s if messages else sent_s + 1) if status else None
    made = Record(Plan(Class.BEST_EFFORT, (1, 2), len(EXPECTED)), sent_s, messages=messages, ended_s=ended_s)
    made.status = status
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def renumbered(made: Record, *numbers: int) -> Record:
    made.messages = [
        Message(message.at_s, number, message.token_ids, message.finish, message.num_completion_tokens)
        for message, number in zip(made.messages, numbers, strict=True)
    ]
    return made


def flaws(made: Record, *spans: Span) -> tuple[Flaw, ...]:
    return judge(made, EXPECTED, spans).flaws


def test_a_stream_with_all_its_tokens_is_whole_whatever_happened_meanwhile() -> None:
    whole = record((11, 12), (13,), (14, 15, 16))
    assert judge(whole, EXPECTED, ()) == judge(whole, EXPECTED, (GOES_ON,)) == Verdict(Outcome.WHOLE)


def test_a_stream_that_a_fault_ended_is_lost_where_streams_go_on() -> None:
    cut = record((11, 12), (13,), sent_s=4.0, status="UNAVAILABLE", retry_after_s=1.0)
    assert judge(cut, EXPECTED, (GOES_ON,)) == Verdict(Outcome.FLAWED, (Flaw.LOST,))


def test_a_stream_that_a_fault_ended_is_cut_off_where_streams_may_end_and_lost_with_another_status() -> None:
    assert judge(record((11,), sent_s=4.5, status="UNAVAILABLE"), EXPECTED, (ENDS_STREAMS,)).outcome is Outcome.CUT_OFF
    assert flaws(record((11,), sent_s=4.5, status="INTERNAL"), ENDS_STREAMS) == (Flaw.LOST,)


def test_a_stream_that_ended_before_the_fault_that_ends_streams_is_lost() -> None:
    assert flaws(record((11,), sent_s=1.0, status="UNAVAILABLE"), ENDS_STREAMS) == (Flaw.LOST,)


def test_a_request_that_waited_when_a_fault_came_is_lost_if_it_is_then_refused() -> None:
    refused = record(sent_s=4.5, status="UNAVAILABLE", retry_after_s=1.0)
    assert flaws(refused, GOES_ON) == (Flaw.LOST,)


@pytest.mark.parametrize("status", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_a_request_sent_after_a_fault_may_be_refused_if_it_is_told_when_to_come_back(status: str) -> None:
    told = record(sent_s=5.5, status=status, retry_after_s=1.0)
    assert judge(told, EXPECTED, (GOES_ON,)) == Verdict(Outcome.REFUSED)
    assert flaws(record(sent_s=5.5, status=status), GOES_ON) == (Flaw.LOST,)


def test_a_request_that_got_a_token_can_not_be_refused_any_more() -> None:
    assert flaws(record((11,), status="RESOURCE_EXHAUSTED", retry_after_s=1.0)) == (Flaw.LOST,)


def test_a_request_without_an_end_hung() -> None:
    assert flaws(record((11, 12), status="")) == (Flaw.HUNG,)


def test_a_message_after_the_last_one_or_an_error_after_it_is_a_second_end() -> None:
    after = record((11, 12, 13, 14, 15, 16))
    after.messages.append(Message(3.0, 1, ()))
    assert flaws(after) == (Flaw.ENDED_TWICE,)
    late = record((11, 12, 13, 14, 15, 16), retry_after_s=1.0)
    late.status = "UNAVAILABLE"
    assert flaws(late, ENDS_STREAMS) == (Flaw.ENDED_TWICE,)


def test_a_stream_that_ends_well_without_a_last_message_is_flawed() -> None:
    silent = record((11, 12, 13, 14, 15, 16))
    silent.messages = [Message(2.0, 0, EXPECTED)]
    assert flaws(silent) == (Flaw.NO_LAST_MESSAGE,)


@pytest.mark.parametrize(
    ("numbers", "flaw"),
    [((0, 2, 3), Flaw.GAP), ((1, 2, 3), Flaw.GAP), ((0, 1, 1), Flaw.REPEATED), ((0, 1, 0), Flaw.REPEATED)],
)
def test_sequence_numbers_count_the_messages(numbers: tuple[int, ...], flaw: Flaw) -> None:
    assert flaws(renumbered(record((11, 12), (13, 14), (15, 16)), *numbers)) == (flaw,)


@pytest.mark.parametrize(
    ("chunks", "flaw"),
    [
        (((11, 12), (15, 16)), Flaw.TOKENS_MISSING),
        (((11, 12), (13, 14, 15)), Flaw.TOKENS_MISSING),
        (((12, 13), (14, 15, 16)), Flaw.TOKENS_MISSING),
        (((11, 12), (12, 13, 14, 15, 16)), Flaw.TOKENS_TWICE),
        (((11, 12, 13), (11, 12, 13, 14, 15, 16)), Flaw.TOKENS_TWICE),
        (((11, 12, 13, 14, 15, 16), (15, 16)), Flaw.TOKENS_TWICE),
        (((11, 12), (99, 14, 15, 16)), Flaw.WRONG_TOKENS),
        (((11, 12, 13, 14, 15, 16), (17,)), Flaw.WRONG_TOKENS),
    ],
)
def test_tokens_are_those_of_the_plan(chunks: tuple[tuple[int, ...], ...], flaw: Flaw) -> None:
    assert flaws(record(*chunks)) == (flaw,)


def test_the_last_message_counts_the_tokens() -> None:
    miscounted = record((11, 12), (13, 14, 15, 16))
    last = miscounted.messages[-1]
    miscounted.messages[-1] = Message(last.at_s, 1, last.token_ids, "length", 5)
    assert flaws(miscounted) == (Flaw.MISCOUNTED,)


def test_a_client_that_left_has_a_right_beginning() -> None:
    assert judge(record((11, 12), status="CANCELLED", left=True), EXPECTED, ()) == Verdict(Outcome.LEFT)
    assert flaws(record((11, 13), status="CANCELLED", left=True)) == (Flaw.TOKENS_MISSING,)


def test_a_stream_that_was_cut_off_has_a_right_beginning_too() -> None:
    assert flaws(record((11, 99), sent_s=4.5, status="UNAVAILABLE"), ENDS_STREAMS) == (Flaw.WRONG_TOKENS,)


def test_tokens_of_an_unknown_plan_are_not_judged() -> None:
    assert judge(record((7, 8)), None, ()) == Verdict(Outcome.WHOLE)


def test_a_record_can_have_several_flaws() -> None:
    both = renumbered(record((11,), (13,), sent_s=4.0, status="INTERNAL"), 0, 2)
    assert flaws(both) == (Flaw.LOST, Flaw.GAP, Flaw.TOKENS_MISSING)
