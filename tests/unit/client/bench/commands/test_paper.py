"""The paper's experiment asks every set-up for the same, and sums up what was measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from qllm.client.bench.commands.paper import PaperOptions
from qllm.client.bench.commands.paper_results import MeasuredResult, iteration_ms_of, own_grids
from qllm.client.bench.load.prompts import Prompts
from qllm.client.bench.load.workload import BE, LS, Replay
from qllm.client.bench.options.target import ServiceArguments
from qllm.client.bench.service.geometries import Geometry, write_geometry
from qllm.client.bench.set_ups import SetUpName
from qllm.client.bench.simulation.sweep import PointResult

from tests.unit.client.bench.samples import measurement, record


def test_the_baseline_is_always_among_the_set_ups() -> None:
    assert PaperOptions(set_up=[SetUpName.EXPERT]).set_ups == [SetUpName.FCFS, SetUpName.EXPERT]
    assert PaperOptions().set_ups == [SetUpName.FCFS, SetUpName.PRIORITY, SetUpName.PAPER, SetUpName.EXPERT]


def test_the_load_has_both_classes_cut_lengths_and_is_the_same_each_time() -> None:
    options = PaperOptions(max_prompt_tokens=100, max_output_tokens=20)
    plans = [options.plan(4.0) for _ in range(2)]
    assert plans[0] == plans[1]
    sources = plans[0].workload
    assert set(sources) == {LS, BE}
    for source in sources.values():
        assert isinstance(source, Replay)
        lengths = [arrival.lengths for arrival, _ in zip(source.arrivals(), range(50), strict=False)]
        assert all(one.num_prompt_tokens <= 100 and one.max_tokens <= 20 for one in lengths)


def test_no_prompt_of_one_rate_begins_like_one_of_another() -> None:
    sources = [PaperOptions().plan(rate).prompts for rate in (1.0, 2.0, 2.5)]
    beginnings = [
        tuple(replace(source, vocab_size=32_000).draw(name, index, 16 + index % 50)[:16])
        for source in sources
        if isinstance(source, Prompts)
        for name in (LS, BE)
        for index in (*range(-3, 20), 10**9)
    ]
    assert len(set(beginnings)) == len(beginnings) == 3 * 2 * 24


def test_a_geometry_is_a_configuration_and_a_worker_told_to_make_weights(tmp_path: Path) -> None:
    write_geometry(Geometry.MIXTRAL_8X7B, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["num_local_experts"]) == (4096, 32, 8)
    arguments = ServiceArguments(worker_arg=["--device=cuda"])
    with PaperOptions(geometry=Geometry.TINY).service(arguments) as (model, worker):
        assert (Path(model) / "config.json").is_file()
        assert worker == ("--load-format", "dummy", "--device=cuda")
    assert not Path(model).exists()
    with PaperOptions(model="mine").service(arguments) as served:
        assert served == ("mine", ("--device=cuda",))


@pytest.mark.parametrize("named", [{}, {"model": "mine", "geometry": Geometry.TINY}])
def test_exactly_one_model_is_to_be_named(named: dict[str, object]) -> None:
    with pytest.raises(typer.BadParameter), PaperOptions(**named).service(ServiceArguments()):  # type: ignore[arg-type]
        pass


def test_what_was_measured_is_summed_up_by_class() -> None:
    waits_s = (0.5, 1.0, 2.0, 4.0)
    records = [record(LS, 1.0, (1.0 + wait_s, 4), end_s=6.0) for wait_s in waits_s]
    records.append(record(BE, 1.0, (4.0, 4), end_s=6.0))
    result = MeasuredResult.of(measurement(*records), slo_s=1.5, iteration_ms=60.0)
    assert result.own_attainment == 0.25  # within 600 ms
    assert (result.ls.count, result.be.count) == (4, 1)
    assert result.ls.attainment == 0.5
    assert result.ls.ttft_ms == pytest.approx([1e3 * wait_s for wait_s in waits_s])
    assert result.be.ttft is not None
    assert result.be.ttft.mean_ms == pytest.approx(3000)


def test_an_iteration_is_the_time_between_tokens_of_the_idle_service() -> None:
    idle = tuple(record(LS, 0.0, (1.0, 1), (1.3, 3), end_s=2.0) for _ in range(2))  # three more tokens in 0.3 s
    assert iteration_ms_of(measurement(idle=idle)) == pytest.approx(100.0)
    assert iteration_ms_of(measurement()) is None


def test_waits_and_the_machine_s_own_objective_have_tables_of_their_own() -> None:
    records = [record(LS, 1.0, (1.2, 4), end_s=2.0, queue_ms=wait_ms) for wait_ms in (1.0, 1.0, 9.0)]
    result = MeasuredResult.of(measurement(*records), slo_s=1.5, iteration_ms=50.0)
    waits, within = own_grids([PointResult(8.0, {"fcfs": result})])
    assert waits.rows == (("fcfs", "1 / 9"),)
    assert "500 ms" in within.title
    assert within.rows == (("fcfs", "100.0%"),)
