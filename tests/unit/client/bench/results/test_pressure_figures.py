import pytest
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.results.pressure import FIGURES, Outcome, figures_of

from tests.unit.client.bench.samples import measurement, record

MOVED = {
    "num_offloads": 3,
    "num_restores": 2,
    "num_drops": 1,
    "num_recomputed_tokens": 50,
    "num_offloaded_blocks": 30,
    "offload_ns": 5_000_000,
    "num_restored_blocks": 20,
    "restore_ns": 4_000_000,
}
OUTCOME = Outcome(10.0, 80, 100, 99, 90, 1, 1000, MOVED, 2**20, 0, 0)


def test_what_was_moved_and_computed_again_is_told_in_bytes_time_and_share_of_the_work() -> None:
    figures = figures_of(measurement(), OUTCOME)
    assert (figures["offloaded_mib"], figures["offload_ms"]) == (30, 5)
    assert (figures["restored_mib"], figures["restore_ms"]) == (20, 4)
    assert figures["redone_percent"] == 5.0
    assert (figures["num_not_done"], figures["num_different"]) == (1, 1)
    assert figures["ls_ttft_to_idle"] is None


def test_loaded_over_idle_is_a_ratio_of_means_with_its_error() -> None:
    idle = tuple(record(LS, at_s, (at_s + ttft_s, 1), end_s=at_s + 1) for at_s, ttft_s in ((0.0, 0.1), (1.0, 0.1)))
    loaded = [record(LS, at_s, (at_s + ttft_s, 1), end_s=at_s + 1) for at_s, ttft_s in ((0.0, 0.1), (1.0, 0.2))]
    figures = figures_of(measurement(*loaded, record(BE, 0.0, (5.0, 20)), idle=idle), OUTCOME)
    assert figures["ls_ttft_to_idle"] == pytest.approx(1.5)
    assert figures["ls_ttft_to_idle_error"] == pytest.approx(0.5)
    assert figures["be_tokens_per_s"] == 2.0


def test_every_figure_of_the_table_is_computed() -> None:
    assert set(figures_of(measurement(), OUTCOME)) == {figure.name for figure in FIGURES}
