"""Judgement of a worker's life, with time as an argument."""

from scheduler_svc.channel import codec
from scheduler_svc.channel.known_worker import KnownWorker
from tests.support.channel.control_channel import advance
from tests.support.channel.fake_worker import hello


def known_worker() -> KnownWorker:
    return KnownWorker(b"w", 1, codec.decode_model(hello()), pid=1, hang_timeout_s=10.0, last_heard_s=100.0)


def test_each_advance_is_answered_once() -> None:
    worker = known_worker()
    worker.expect_answers([advance(1), advance(2)])
    assert [worker.take_answer(number) for number in (2, 2, 1, 3)] == [True, False, True, False]


def test_worker_is_hung_after_the_timeout_without_progress_and_recovers_with_it() -> None:
    worker = known_worker()
    assert not worker.judge_progress(9.9)
    assert worker.judge_progress(10.0)
    assert worker.hung_reason == "no progress for 10.0 s, allowed are 10 s"
    assert not worker.judge_progress(11.0)
    assert worker.judge_progress(0.0)
    assert worker.hung_reason is None


def test_silence_hangs_and_only_a_heartbeat_takes_that_back() -> None:
    worker = known_worker()
    assert not worker.judge_silence(109.9)
    assert worker.judge_silence(110.0)
    worker.last_heard_s = 111.0
    assert not worker.judge_silence(112.0)
    assert worker.hung_reason is not None
    assert worker.judge_progress(0.0)


def test_where_more_is_known_of_what_it_does_less_patience_is_had_and_never_more_than_the_timeout() -> None:
    worker = known_worker()
    assert not worker.judge_progress(2.9, 3.0)
    assert worker.judge_progress(3.0, 3.0)
    assert worker.hung_reason == "no progress for 3.0 s, allowed are 3 s"
    assert worker.judge_progress(2.0, 3.0)
    assert not worker.judge_silence(102.9, 3.0)
    assert worker.judge_silence(103.0, 3.0)
    assert worker.judge_progress(0.0, 60.0)
    assert worker.judge_progress(10.0, 60.0)
