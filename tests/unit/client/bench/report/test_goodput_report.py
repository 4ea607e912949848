from dataclasses import replace
from pathlib import Path

import pytest
from qllm.client.bench.commands.compare import compare
from qllm.client.bench.commands.goodput import report_of_goodputs
from qllm.client.bench.errors import BadFile
from qllm.client.bench.options.target import FigureOptions
from qllm.client.bench.report.figures import to_png
from qllm.client.bench.report.goodput_figure import goodput_figure
from qllm.client.bench.report.goodput_tables import goodput_grids, level_line, warnings
from qllm.client.bench.results.goodput import ServerGoodput, to_json
from qllm.client.bench.results.result_file import dump

from tests.unit.client.bench.samples import result, server


def write(path: Path, *servers: ServerGoodput) -> Path:
    path.write_text(dump(to_json(servers)))
    return path


def test_each_level_is_a_row_with_its_shares_and_what_best_effort_work_makes() -> None:
    found = server(boundary=4)
    kept, made, _ = goodput_grids([replace(found, levels=found.levels[::-1])])
    assert kept.title == "ours: LS requests with TTFT within 1.5x idle = 150.0 ms, TPOT within 50 ms"
    assert [row[0] for row in kept.rows] == ["0", "1", "2", "4", "8"]
    assert kept.rows[3] == ("4", "2", "40", "100.0%", "100.0%", "100.0%", "91.2-100", "yes")
    assert kept.rows[4][3:] == ("25.0%", "100.0%", "25.0%", "14.2-40.2", "no")
    assert made.rows[0] == ("idle", "-", "-", "100.0 / 100.0", "30.0 / 30.0")
    assert made.rows[4] == ("4", "40.1 ± 0.1", "48.1", "100.0 / 100.0", "30.0 / 30.0")


def test_servers_stand_side_by_side_with_their_ratio() -> None:
    *_, side_by_side = goodput_grids([server("ours", boundary=8, most=16), server("theirs", boundary=2, most=4)])
    assert side_by_side.title == "Goodput: the most BE tokens/s while 90 % of LS requests keep both targets"
    assert side_by_side.header == ("", "BE tokens/s", "to ours", "clients", "fails from", "LS alone")
    assert list(side_by_side.rows) == [
        ("ours", "80.1 ± 0.1", "1.00x", "8", "16", "100.0%"),
        ("theirs", "20.1 ± 0.1", "0.25x", "2", "4", "100.0%"),
    ]


def test_a_server_that_bears_nothing_has_a_goodput_of_0_and_is_told_from_where_on_it_fails() -> None:
    *_, side_by_side = goodput_grids([server("ours", boundary=-1, most=0), server("theirs")])
    assert side_by_side.rows[0] == ("ours", "0", "-", "-", "0", "25.0%")
    assert side_by_side.rows[1][2] == "-"


@pytest.mark.parametrize(
    ("is_sure", "is_decided", "holds", "said"),
    [
        (True, True, True, "holds"),
        (True, True, False, "does not hold"),
        (False, True, True, "holds: probably"),
        (False, True, False, "holds: probably not"),
        (False, False, True, "holds: not known yet"),
    ],
)
def test_how_sure_a_level_is_is_told(is_sure: bool, is_decided: bool, holds: bool, said: str) -> None:
    level = replace(server().levels[1], is_sure=is_sure, is_decided=is_decided, holds=holds)
    assert level_line("ours", level) == (
        f"ours, 1 BE client: 100.0% of 40 LS requests keep both targets, 10.1 BE tokens/s; {said}"
    )


def test_what_makes_figures_doubtful_is_warned_of() -> None:
    found = server()
    assert warnings(found) == []
    assert any("ended early" in one for one in warnings(replace(found, is_interrupted=True)))
    first, *others = found.levels
    late = replace(first, lag_p99_ms=50.0)
    assert any("50 ms late" in one for one in warnings(replace(found, levels=(late, *others))))
    failed = replace(first, failures={"HTTP 500": 2})
    assert "requests failed: HTTP 500: it broke" in warnings(replace(found, levels=(failed, *others)))
    empty = replace(first, attainment=replace(first.attainment, num_requests=0))
    assert any("no LS request" in one for one in warnings(replace(found, levels=(empty, *others))))


def test_it_is_printed_and_drawn_and_the_page_needs_nothing_but_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = FigureOptions(html=tmp_path / "page.html", png=tmp_path / "a.png")
    report_of_goodputs([server("<ours>"), server("theirs", boundary=2, most=4)]).show(files, tmp_path / "a.json")
    assert "to <ours>" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert "&lt;ours&gt;: goodput 40.1 tokens/s" in page
    assert "http:" not in page
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.json").read_text().startswith('{"schema":"qllm-bench-goodput/1"')


@pytest.mark.parametrize("servers", [[server(boundary=-1, most=0)], [replace(server(), levels=())]])
def test_a_search_that_found_little_can_be_drawn(servers: list[ServerGoodput]) -> None:
    assert to_png(goodput_figure(servers)).startswith(b"\x89PNG")


def test_searches_of_several_files_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(tmp_path / "a.json", server("qllm"), server("fcfs")), write(tmp_path / "b.json", server("qllm"))]
    compare(files, FigureOptions(png=tmp_path / "a.png"))
    out = capsys.readouterr().out
    assert "qllm #1" in out
    assert "qllm #2" in out
    assert "fcfs" in out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_search_and_a_load_are_not_compared(tmp_path: Path) -> None:
    load = tmp_path / "load.json"
    load.write_text(dump(result().to_json()))
    with pytest.raises(BadFile, match=r"load\.json: it is of one load, others are of a search for goodput"):
        compare([write(tmp_path / "a.json", server()), load], FigureOptions())
