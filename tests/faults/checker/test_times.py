"""Times are counted from the fault, and only from what it can have caused."""

from tests.faults.checker.times import Sign, longest_silence, time_to_detect, time_to_serve_again
from tests.faults.records import Class, Message, Plan, Record

PLAN = Plan(Class.LATENCY_SENSITIVE, (1,), 4)


def stream(sent_s: float, *times_s: float) -> Record:
    return Record(PLAN, sent_s, messages=[Message(at_s, i, (7,)) for i, at_s in enumerate(times_s)])


def test_the_first_sign_after_the_fault_counts() -> None:
    signs = [Sign(1.0, "before"), Sign(5.5, "later"), Sign(5.25, "first")]
    assert time_to_detect(signs, 5.0) == 0.25
    assert time_to_detect(signs[:1], 5.0) is None


def test_only_requests_that_were_sent_after_the_fault_show_that_it_serves_again() -> None:
    assert time_to_serve_again([stream(4.0, 5.5), stream(5.0, 9.0), stream(6.0, 7.0), stream(6.0)], 5.0) == 2.0
    assert time_to_serve_again([stream(4.0, 5.5), stream(6.0)], 5.0) is None


def test_the_silence_of_a_stream_is_its_longest_pause_that_ended_after_the_fault() -> None:
    assert longest_silence(stream(0.0, 1.0, 4.0, 4.5, 8.0, 9.0), 5.0) == 3.5
    assert longest_silence(stream(0.0, 1.0, 2.0, 5.125, 8.0), 5.0) == 3.125


def test_a_stream_that_had_not_begun_or_did_not_go_on_has_no_silence() -> None:
    assert longest_silence(stream(0.0, 6.0, 7.0), 5.0) is None
    assert longest_silence(stream(0.0, 1.0, 2.0), 5.0) is None
    assert longest_silence(stream(0.0), 5.0) is None
