from itertools import islice, pairwise

import pytest
from qllm.client.bench.load.trace import Trace, TraceRow
from qllm.client.bench.load.workload import BE, LS, ClosedLoop, Lengths, Poisson, Replay, sample_lengths, split

LENGTHS = Lengths(80, 16)
TRACE = Trace.of([TraceRow(0.0, 100, 10), TraceRow(1.0, 5000, 20), TraceRow(3.0, 200, 900)])


def test_poisson_arrivals_are_fixed_by_the_seed_and_have_the_rate() -> None:
    times_s = [arrival.at_s for arrival in islice(Poisson(5.0, LENGTHS, "ls 3").arrivals(), 5000)]
    assert times_s == [arrival.at_s for arrival in islice(Poisson(5.0, LENGTHS, "ls 3").arrivals(), 5000)]
    assert times_s != [arrival.at_s for arrival in islice(Poisson(5.0, LENGTHS, "ls 4").arrivals(), 5000)]
    assert times_s == sorted(times_s)
    assert times_s[-1] == pytest.approx(1000, rel=0.05)
    gaps_s = [later - earlier for earlier, later in pairwise(times_s)]
    assert sum(gap_s > 0.2 for gap_s in gaps_s) / len(gaps_s) == pytest.approx(0.3679, rel=0.05)  # exp(-1)


def test_a_replay_scales_times_cuts_lengths_and_starts_over() -> None:
    arrivals = list(islice(Replay(TRACE, 2.0, longest_prompt=1000, longest_output=64).arrivals(), 5))
    assert [arrival.at_s for arrival in arrivals] == [0.0, 2.0, 6.0, 9.0, 11.0]
    assert [arrival.lengths for arrival in arrivals[:3]] == [Lengths(100, 10), Lengths(1000, 20), Lengths(200, 64)]


def test_a_replay_without_requests_ends() -> None:
    assert list(Replay(Trace((), 1.0), 1.0).arrivals()) == []


def test_splitting_gives_each_request_to_one_class_by_share_and_seed() -> None:
    trace = Trace.of([TraceRow(float(at_s), 1, 1) for at_s in range(2000)])
    parts = split(trace, 0.2, seed=1)
    assert parts == split(trace, 0.2, seed=1)
    assert parts != split(trace, 0.2, seed=2)
    assert sorted(row.at_s for part in parts.values() for row in part.rows) == [row.at_s for row in trace.rows]
    assert len(parts[LS].rows) == pytest.approx(400, rel=0.2)
    assert parts[LS].period_s == parts[BE].period_s == trace.period_s


def test_sampled_lengths_stand_for_those_that_will_be_asked_for() -> None:
    assert sample_lengths(ClosedLoop(2, 0.0, LENGTHS), 3, 10.0) == [LENGTHS] * 3
    assert sample_lengths(Poisson(5.0, LENGTHS, "x"), 2, 10.0) == [LENGTHS] * 2
    assert sample_lengths(Replay(TRACE, 1.0), 3, 3.5) == [Lengths(100, 10), Lengths(200, 900), Lengths(5000, 20)]
    assert sample_lengths(Replay(TRACE, 1.0), 2, 0.5) == [Lengths(100, 10)] * 2
    assert sample_lengths(Replay(Trace((), 1.0), 1.0), 2, 5.0) == []
