import re
from dataclasses import replace
from pathlib import Path

import pytest
from qllm.client.bench.commands.compare import compare, with_own_labels
from qllm.client.bench.commands.measure import report_of
from qllm.client.bench.errors import BenchError
from qllm.client.bench.load.record import RequestRecord
from qllm.client.bench.load.workload import LS
from qllm.client.bench.options.target import FigureOptions
from qllm.client.bench.report.ablation_figure import ablation_figure
from qllm.client.bench.report.ablation_tables import ablation_grids
from qllm.client.bench.report.figures import comparison_figure, result_figure, to_png, to_svg
from qllm.client.bench.report.tables import comparison_grid, result_grids, warnings
from qllm.client.bench.results.gains import find_gains
from qllm.client.bench.results.result_file import Result, dump
from qllm.client.bench.results.summary import summarize
from qllm.client.bench.set_ups import SetUpName

from tests.unit.client.bench.samples import NO_OBJECTIVES, measurement, record, result

LOADED_FROM_ELSEWHERE = re.compile(
    r"""(?:src|href)\s*=\s*["']?(?!["']?(?:\#|data:))|url\((?!["']?\#)|@import|<script|<link"""
)


def write(path: Path, made: Result) -> Path:
    path.write_text(dump(made.to_json()))
    return path


def of_records(*records: RequestRecord) -> Result:
    measured = measurement(*records)
    summary = summarize(measured, NO_OBJECTIVES)
    return replace(result(), rows=measured.rows, idle=(), summary=summary, bins=measured.throughput.bins)


def test_a_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    report_of(result('<ours> & "theirs"')).show(FigureOptions(html=page))
    text = page.read_text()
    assert not LOADED_FROM_ELSEWHERE.search(text)
    assert "http:" not in text
    assert "https:" not in text
    assert "<svg" in text
    assert "&lt;ours&gt; &amp;" in text


def test_files_are_written_where_they_were_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_of(result()).show(FigureOptions(png=tmp_path / "a.png"), tmp_path / "a.json")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.json").read_text().startswith('{"schema":"qllm-bench/1"')
    seen = capsys.readouterr()
    assert "TTFT, mean" in seen.out
    assert "wrote " in seen.err


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=re.escape(str(tmp_path))):
        report_of(result()).show(FigureOptions(), tmp_path)


def test_the_table_shows_each_class_beside_the_idle_server() -> None:
    cells = {row[0]: row[1:] for row in result_grids(result())[0].rows}
    assert cells["TTFT, mean"] == ("50.0", "100.0", "2.00x", "1,000")
    assert cells["requests done"] == ("3", "5", "", "5")
    assert cells["queue time (server)"] == ("-", "-", "-", "-")
    assert cells["SLO attainment"] == ("", "100.0%", "", "-")
    assert cells["  TTFT alone"] == cells["  TPOT alone"] == ("", "100.0%", "", "-")


def test_a_figure_of_lower_bounds_is_marked() -> None:
    waiting = record(LS, 0.0)
    waiting.give_up(5.0)
    made = of_records(record(LS, 0.0, (0.1, 1), end_s=0.2), waiting)
    cells = {row[0]: row[2] for row in result_grids(made)[0].rows}
    assert cells["TTFT, mean"].startswith("≥ ")
    assert any("lower bounds" in warning for warning in warnings(made))


def test_what_makes_figures_doubtful_is_warned_of() -> None:
    late = [record(LS, float(i), (i + 1.0, 1), end_s=i + 1.0, sent_s=i + 0.05) for i in range(3)]
    assert any("50 ms late" in warning for warning in warnings(of_records(*late)))
    failed = of_records(record(LS, 0.0, failure="HTTP 500", end_s=1.0))
    assert any("1 requests of the window failed" in warning for warning in warnings(failed))
    told = result_grids(replace(failed, messages={"HTTP 500": "it broke"}))
    assert ("HTTP 500", "1", "it broke") in told[-1].rows
    assert any("ended early" in warning for warning in warnings(replace(result(), is_interrupted=True)))
    assert any("no request was to be sent" in warning for warning in warnings(of_records()))
    assert warnings(result()) == []


def test_results_stand_side_by_side() -> None:
    grid = comparison_grid([result("ours", ttft_s=0.1), result("theirs", ttft_s=2.0)])
    assert grid.header == ("", "ours", "theirs")
    cells = {row[0]: row[1:] for row in grid.rows}
    assert cells["LS TTFT, mean ms"] == ("100.0", "2,000")
    assert cells["LS TTFT loaded / idle, mean"] == ("2.00x", "40.0x")


def test_results_of_the_same_name_are_numbered() -> None:
    labels = [one.label for one in with_own_labels([result("a"), result("b"), result("a")])]
    assert labels == ["a #1", "b", "a #2"]


def test_comparing_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write(tmp_path / f"{name}.json", result(name)) for name in ("ours", "theirs", "others")]
    compare(paths, FigureOptions(html=tmp_path / "page.html", png=tmp_path / "a.png"))
    assert "theirs" in capsys.readouterr().out
    assert "others" in (tmp_path / "page.html").read_text()
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_an_ablation_tells_each_set_up_and_where_the_gain_comes_from() -> None:
    results = [
        result(SetUpName.FCFS, ttft_s=4.0),
        result(SetUpName.PRIORITY, ttft_s=0.4),
        result(SetUpName.EXPERT, ttft_s=0.1),
    ]
    set_ups, gains = ablation_grids(results, find_gains({one.label: one.summary for one in results}))
    assert set_ups.header == ("", SetUpName.FCFS, SetUpName.PRIORITY, SetUpName.EXPERT)
    cells = {row[0]: row[1:] for row in set_ups.rows}
    assert cells["  lower than under fcfs"] == ("1.00x", "10.0x", "40.0x")
    assert [(row[0], row[2]) for row in gains.rows] == [
        ("priority between iterations", "10.0x"),
        ("stopping inside an iteration", "4.00x"),
        ("both", "40.0x"),
    ]
    assert to_png(ablation_figure(results)).startswith(b"\x89PNG")


def test_an_ablation_without_its_baseline_can_be_shown() -> None:
    results = [result(SetUpName.EXPERT)]
    assert ablation_grids(results, [])[0].rows
    assert to_png(ablation_figure(results)).startswith(b"\x89PNG")


def test_results_without_requests_can_be_drawn() -> None:
    empty = of_records()
    for figure in (result_figure(empty), comparison_figure([empty, empty])):
        assert to_svg(figure, "x").startswith("<svg")
