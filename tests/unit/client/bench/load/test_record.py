import pytest
from qllm.client.bench.load.record import UNFINISHED, RequestRow
from qllm.client.bench.load.target import Chunk, Ending
from qllm.client.bench.load.workload import BE, LS

from tests.unit.client.bench.samples import record


def test_latencies_count_from_the_intended_time_and_not_from_sending() -> None:
    made = record(LS, 2.0, (5.0, 1), (5.5, 1), (6.5, 2), end_s=7.0, sent_s=4.0)
    row = RequestRow.of(made, window_start_s=1.0)
    assert (row.at_ms, row.lag_ms) == (1000.0, 2000.0)
    assert (row.ttft_ms, row.last_token_ms, row.total_ms) == (3000.0, 4500.0, 5000.0)
    assert (row.max_gap_ms, row.num_tokens) == (1000.0, 4)


def test_time_per_token_leaves_the_first_token_out_and_counts_tokens_not_chunks() -> None:
    row = RequestRow.of(record(LS, 0.0, (1.0, 1), (4.0, 3), end_s=4.0), 0.0)
    assert row.tpot_ms == pytest.approx(1000.0)
    assert RequestRow.of(record(LS, 0.0, (1.0, 1), end_s=1.0), 0.0).tpot_ms is None


def test_a_chunk_of_several_tokens_is_one_arrival() -> None:
    assert record(BE, 0.0, (1.0, 4), (3.0, 4), (3.5, 1)).gaps_s == [2.0, 0.5]


def test_tokens_count_in_the_window_that_they_came_in() -> None:
    made = record(BE, 0.0, (1.0, 4), (3.0, 5), (3.5, 6))
    assert made.num_tokens_within(1.0, 3.0) == 4
    assert made.num_tokens_within(3.0, 9.0) == 11


@pytest.mark.parametrize(("counted", "spread"), [(7, [3, 2, 2]), (3, [1, 1, 1]), (1, [1, 0, 0]), (2, [1, 1, 0])])
def test_the_servers_count_is_spread_over_chunks_that_were_estimated(counted: int, spread: list[int]) -> None:
    made = record(LS, 0.0)
    for at_s in (1.0, 2.0, 3.0):
        made.take(Chunk(1, is_exact=False), at_s)
    made.finish(Ending(num_tokens=counted), 3.0)
    assert list(made.chunk_tokens) == spread


def test_exact_counts_are_left_as_they_are() -> None:
    made = record(LS, 0.0, (1.0, 2))
    made.finish(Ending(num_tokens=9), 2.0)
    assert made.num_tokens == 2


def test_tokens_without_any_text_came_with_the_end() -> None:
    made = record(LS, 0.0)
    made.finish(Ending(num_tokens=5), 2.0)
    assert RequestRow.of(made, 0.0).ttft_ms == 2000.0


def test_what_is_given_up_stays_unfinished_and_what_has_ended_stays_ended() -> None:
    running, ended = record(LS, 1.0, (2.0, 1)), record(LS, 1.0, (2.0, 1), end_s=3.0)
    for made in (running, ended):
        made.give_up(9.0)
    assert (running.outcome, RequestRow.of(running, 0.0).total_ms) == (UNFINISHED, 8000.0)
    assert RequestRow.of(ended, 0.0).total_ms == 2000.0


def test_what_the_server_does_not_tell_is_absent() -> None:
    row = RequestRow.of(record(LS, 0.0, end_s=1.0), 0.0)
    assert (row.queue_ms, row.ttft_ms, row.max_gap_ms) == (None, None, None)
    assert RequestRow.of(record(LS, 0.0, end_s=1.0, queue_ms=7.0), 0.0).queue_ms == 7.0
