"""The figures beside the paper's claims come from the runs, and from nothing else."""

from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.report.claims import claims_grid
from qllm.client.bench.results.spread import Spread
from qllm.client.bench.simulation.simulator import ClassResult, SimulatedResult
from qllm.client.bench.simulation.sweep import PointResult


def result(ttft_s: float, ls_turnaround_s: float, be_turnaround_s: float, tokens_per_s: float) -> SimulatedResult:
    def of(ttft: float, turnaround: float) -> ClassResult:
        ttft_ms, turnaround_ms = Spread.of([ttft * 1e3]), Spread.of([turnaround * 1e3])
        return ClassResult(count=1, ttft=ttft_ms, tpot=None, turnaround=turnaround_ms, queue=None, attainment=None)

    classes = {LS: of(ttft_s, ls_turnaround_s), BE: of(1.0, be_turnaround_s)}
    return SimulatedResult(100.0, 1.0, tokens_per_s, 10, classes, {})


def test_gains_costs_and_the_objective_are_computed_from_the_results() -> None:
    sweep = [
        PointResult(1.0, {"fcfs": result(2.0, 20.0, 10.0, 100.0), "qllm-expert": result(1.0, 10.0, 10.0, 100.0)}),
        PointResult(2.0, {"fcfs": result(90.0, 50.0, 10.0, 100.0), "qllm-expert": result(3.0, 10.0, 30.0, 80.0)}),
        PointResult(4.0, {"fcfs": result(90.0, 50.0, 10.0, 100.0), "qllm-expert": result(4.0, 10.0, 20.0, 90.0)}),
    ]
    grid = claims_grid(sweep, slo_s=3.0, how="SIMULATED")
    assert grid is not None
    assert {name.strip(): cells[-1] for name, *cells in grid.rows} == {
        "LS TTFT, times lower: average": "18.2x",  # of 2, 30 and 22.5
        "LS TTFT, times lower: best": "30.0x",
        "LS TTFT within 3 s: mean, up to": "2 req/s",
        "the same, fcfs": "1 req/s",
        "LS turnaround, times lower: best": "5.00x",
        "BE turnaround, times higher: average": "2.00x",
        "BE turnaround, times higher: worst": "3.00x",
        "throughput to fcfs: average": "0.90x",
        "throughput to fcfs: worst": "0.80x",
    }
    assert "SIMULATED" in grid.title
    assert all("SIMULATED" in name for name in grid.header[2:])


def test_without_the_baseline_nothing_is_claimed() -> None:
    assert claims_grid([PointResult(1.0, {"qllm-expert": result(1, 1, 1, 1)})], 3.0, "SIMULATED") is None
