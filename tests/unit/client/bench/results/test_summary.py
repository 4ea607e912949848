import pytest
from qllm.client.bench.load.measurement import Measurement, Window, pool
from qllm.client.bench.load.record import UNFINISHED
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.results.spread import Spread, percentile
from qllm.client.bench.results.summary import (
    Attainment,
    Objective,
    Ratios,
    Targets,
    summarize,
    ttft_spread,
    turnaround_spread,
)

from tests.unit.client.bench.samples import NO_OBJECTIVES, measurement, record, row


def test_a_percentile_is_the_nearest_rank() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert [percentile(ordered, percent) for percent in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert percentile([1.0, 2.0, 3.0], 99) == 3.0
    assert percentile([7.0], 1) == 7.0


def test_a_spread_of_nothing_is_nothing() -> None:
    assert Spread.of([]) is None
    assert Spread.of([3.0, 1.0]) == Spread(2, 2.0, 1.0, 3.0, 3.0, 3.0)


def test_only_requests_whose_time_lies_in_the_window_are_measured() -> None:
    measured = measurement(
        record(LS, -0.1, (1.0, 1), end_s=1.0),
        record(LS, 0.0, (1.0, 1), end_s=1.0),
        record(LS, 9.9, (12.0, 1), end_s=13.0),
        record(LS, 10.0, (12.0, 1), end_s=13.0),
    )
    assert [one.at_ms for one in measured.rows] == [0.0, 9900.0]


def test_throughput_counts_what_came_in_the_window_whoever_it_belongs_to() -> None:
    summary = summarize(
        measurement(
            record(BE, -3.0, (-1.0, 5), (1.0, 7), end_s=1.0),  # from before; ends in the window
            record(BE, 1.0, (2.0, 10), (9.0, 20)),  # never ends
            record(LS, 9.0, (9.5, 3), (11.0, 4), end_s=11.0),  # ends after it
        ),
        NO_OBJECTIVES,
    )
    assert summary.tokens_per_s == pytest.approx(4.0)  # 7 + 10 + 20 + 3 in ten seconds
    assert (summary.ls.tokens_per_s, summary.be.tokens_per_s) == (0.3, 3.7)
    assert summary.finished_tokens_per_s == pytest.approx(1.2)
    assert (summary.requests_per_s, summary.ls.requests_per_s) == (0.1, 0.0)
    assert summary.prompt_tokens_per_s == pytest.approx(2.0)  # two begun, ten tokens each


def test_tokens_fall_into_bins_of_the_window() -> None:
    measured = measurement(record(BE, 0.0, (0.1, 1), (0.4, 2), (0.5, 4), (9.99, 8)), record(LS, 0.0, (0.6, 16)))
    bins = measured.throughput.bins
    assert measured.throughput.bin_s == 0.5
    assert (bins[BE][:2], bins[BE][-1], bins[LS][1]) == ([3, 4], 8, 16)
    assert len(bins[BE]) == 20


def test_long_windows_have_few_bins() -> None:
    assert len(measurement(seconds=3600.0).throughput.bins[LS]) == 240


def test_an_unfinished_request_counts_with_the_time_that_it_waited() -> None:
    rows = [row(ttft_ms=10.0, total_ms=40.0), row(ttft_ms=None, last_token_ms=None, total_ms=900.0, outcome=UNFINISHED)]
    ttft, turnaround = ttft_spread(rows), turnaround_spread(rows)
    assert ttft is not None
    assert (ttft.mean_ms, ttft.max_ms, ttft.num_lower_bounds) == (455.0, 900.0, 1)
    assert turnaround is not None
    assert (turnaround.max_ms, turnaround.num_lower_bounds) == (900.0, 1)
    begun = ttft_spread([row(ttft_ms=10.0, outcome=UNFINISHED, total_ms=900.0)])
    assert begun is not None
    assert (begun.max_ms, begun.num_lower_bounds) == (10.0, 0)


def test_failures_count_by_kind_and_in_no_latency() -> None:
    summary = summarize(
        measurement(
            record(LS, 0.0, (0.1, 1), end_s=0.2),
            record(LS, 1.0, failure="HTTP 429", end_s=1.0),
            record(LS, 2.0, failure="HTTP 429", end_s=8.0),
            record(LS, 3.0, failure="stream cut", end_s=8.0),
            record(BE, 3.0),
        ),
        NO_OBJECTIVES,
    )
    assert summary.failures == {"HTTP 429": 2, "stream cut": 1}
    assert (summary.ls.num_requests, summary.ls.num_done, summary.ls.num_failed) == (4, 1, 3)
    assert (summary.be.num_unfinished, summary.be.num_failed) == (1, 0)
    assert summary.ls.ttft is not None
    assert summary.ls.ttft.count == 1


@pytest.mark.parametrize(
    ("objective", "is_met"),
    [
        (Objective(), True),
        (Objective(ttft_ms=10.0), True),
        (Objective(ttft_ms=9.9), False),
        (Objective(tpot_ms=10.0), True),
        (Objective(tpot_ms=9.9), False),
        (Objective(ttft_ms=10.0, tpot_ms=9.9), False),
    ],
)
def test_an_objective_is_met_in_all_of_its_parts(objective: Objective, is_met: bool) -> None:
    assert objective.is_met(row(ttft_ms=10.0, last_token_ms=40.0, num_tokens=4)) is is_met


def test_goodput_counts_what_met_the_objective_against_all_that_was_asked() -> None:
    measured = measurement(
        record(LS, 0.0, (0.1, 1), (0.2, 3), end_s=0.2),
        record(LS, 1.0, (1.9, 1), (2.0, 3), end_s=2.0),
        record(LS, 2.0, failure="HTTP 500", end_s=2.0),
        record(LS, 3.0, (3.1, 1)),
    )
    goodput = summarize(measured, {**NO_OBJECTIVES, LS: Objective(ttft_ms=500.0)}).ls.goodput
    assert goodput is not None
    assert (goodput.attainment, goodput.requests_per_s, goodput.tokens_per_s) == (0.25, 0.1, 0.4)
    assert summarize(measured, NO_OBJECTIVES).ls.goodput is None


def test_each_part_of_an_objective_is_counted_by_itself_too() -> None:
    rows = [
        row(ttft_ms=10.0, last_token_ms=40.0, num_tokens=4),
        row(ttft_ms=90.0, last_token_ms=120.0, num_tokens=4),  # late
        row(ttft_ms=10.0, last_token_ms=190.0, num_tokens=4),  # slow
        row(ttft_ms=10.0, last_token_ms=20.0, num_tokens=2, outcome=UNFINISHED),
        row(ttft_ms=10.0, last_token_ms=20.0, num_tokens=2, outcome="HTTP 500"),
    ]
    assert Attainment.of(rows, Objective(50.0, 50.0)) == Attainment(5, num_met=1, num_ttft_met=3, num_tpot_met=2)
    measured = measurement(
        record(LS, 0.0, (0.1, 1), (0.2, 3), end_s=0.2), record(LS, 1.0, (1.9, 1), (2.0, 3), end_s=2.0)
    )
    goodput = summarize(measured, {**NO_OBJECTIVES, LS: Objective(500.0, 50.0)}).ls.goodput
    assert goodput is not None
    assert (goodput.attainment, goodput.ttft_attainment, goodput.tpot_attainment) == (0.5, 0.5, 1.0)


def test_targets_are_an_objective_where_the_idle_server_was_met() -> None:
    idle = [row(ttft_ms=10.0), row(ttft_ms=30.0)]
    assert Targets(1.5, 40.0).objective(idle) == Objective(30.0, 40.0)
    assert Targets(1.5, 40.0).objective([]) == Objective(None, 40.0)


def test_ratios_divide_like_by_like() -> None:
    loaded, idle = Spread(3, 20.0, 10.0, 30.0, 40.0, 40.0), Spread(3, 10.0, 10.0, 10.0, 10.0, 10.0)
    assert Ratios.of(loaded, idle) == Ratios(2.0, 1.0, 3.0, 4.0)
    assert Ratios.of(loaded, None) is None
    assert Ratios.of(None, idle) is None


def test_the_idle_baseline_is_what_latencies_are_compared_with() -> None:
    idle = (record(LS, 100.0, (100.1, 1), (100.2, 2), end_s=100.2),)
    summary = summarize(measurement(record(LS, 0.0, (0.3, 1), end_s=0.4), idle=idle), NO_OBJECTIVES)
    assert summary.ttft_to_idle is not None
    assert summary.ttft_to_idle.mean == pytest.approx(3.0)
    assert summary.turnaround_to_idle is not None
    assert summary.turnaround_to_idle.p99 == pytest.approx(2.0)
    assert summary.idle_tpot is not None
    assert summary.idle_tpot.mean_ms == pytest.approx(50.0)


def test_gaps_and_queue_times_are_summarized_by_class() -> None:
    summary = summarize(
        measurement(
            record(LS, 0.0, (0.1, 2), (0.3, 2), (0.4, 2), end_s=0.4, queue_ms=5.0), record(BE, 0.0, (0.1, 1), end_s=0.2)
        ),
        NO_OBJECTIVES,
    )
    assert summary.ls.gap is not None
    assert (summary.ls.gap.count, summary.ls.gap.max_ms) == (2, 200.0)
    assert summary.ls.queue is not None
    assert summary.ls.queue.mean_ms == 5.0
    assert (summary.be.gap, summary.be.queue) == (None, None)
    assert summary.ls.tokens_per_chunk == 2.0


def test_how_late_requests_were_sent_is_told() -> None:
    late = [record(LS, float(i), (i + 1.0, 1), end_s=i + 1.0, sent_s=i + 0.05) for i in range(3)]
    assert summarize(measurement(*late), NO_OBJECTIVES).lag_p99_ms == pytest.approx(50.0)


def test_several_loads_are_pooled_as_one_of_their_whole_time() -> None:
    fast = measurement(record(LS, 0.0, (0.1, 4), end_s=0.2))
    slow = measurement(record(LS, 0.0, (0.3, 4), end_s=0.4), record(BE, 1.0, (2.0, 12), end_s=3.0))
    summary = summarize(pool([fast, slow]), NO_OBJECTIVES)
    assert summary.seconds == 20.0
    assert summary.tokens_per_s == pytest.approx(1.0)
    assert summary.ls.ttft is not None
    assert (summary.ls.ttft.count, summary.ls.ttft.mean_ms) == (2, 200.0)
    assert pool([fast, slow]).counters == {"num_joins": 6}


def test_nothing_at_all_can_be_summarized() -> None:
    summary = summarize(Measurement.of([], [], Window(0.0, 0.0), {}, {}), NO_OBJECTIVES)
    assert (summary.tokens_per_s, summary.ls.ttft, summary.lag_p99_ms) == (0.0, None, None)
