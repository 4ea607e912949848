import json
from dataclasses import replace
from pathlib import Path

import pytest
from qllm.client.bench.errors import BadFile
from qllm.client.bench.results.goodput import Level, read_goodputs, tally_of, to_json
from qllm.client.bench.results.goodput_search import Rule, Tally
from qllm.client.bench.results.result_file import dump
from qllm.client.bench.results.summary import Attainment, Objective

from tests.unit.client.bench.samples import server, window

OBJECTIVE = Objective(150.0, 50.0)
RULE = Rule(0.9, 2, 3)


def test_a_level_pools_its_windows_and_tells_how_much_they_differ() -> None:
    level = Level.of(4, [window(20, 20, 100), window(18, 20, 120)], OBJECTIVE, RULE)
    assert level.attainment == Attainment(40, num_met=38, num_ttft_met=38, num_tpot_met=40)
    assert (level.num_windows, level.seconds, level.share) == (2, 20.0, 0.95)
    assert level.be_tokens_per_s == 11.0
    assert level.be_tokens_per_s_error == pytest.approx(1.0)  # 10 and 12 tokens a second
    assert level.ttft is not None
    assert level.ttft.mean_ms == pytest.approx((38 * 100 + 2 * 1000) / 40)
    assert level.tpot is not None
    assert level.tpot.mean_ms == pytest.approx(30.0)
    assert level.low < 0.9 <= level.high
    assert (level.holds, level.is_sure, level.is_decided) == (True, False, False)


def test_one_window_has_no_error() -> None:
    assert Level.of(1, [window(1, 1, 5)], OBJECTIVE, RULE).be_tokens_per_s_error is None


def test_only_latency_sensitive_requests_are_counted() -> None:
    assert tally_of([window(3, 4, 100), window(0, 1, 100)], OBJECTIVE) == Tally(2, 3, 5)


def test_a_level_that_nobody_asked_at_has_no_share() -> None:
    level = Level.of(0, [window(0, 0), window(0, 0)], OBJECTIVE, Rule(0.9, 2, 2))
    assert (level.share, level.holds, level.ttft) == (None, False, None)


def test_goodput_is_the_most_that_best_effort_work_makes_at_a_level_that_holds() -> None:
    found = server(boundary=4)
    assert found.best is not None
    assert (found.best.num_be_clients, found.tokens_per_s) == (4, 40.1)
    assert found.failed is not None
    assert found.failed.num_be_clients == 8
    slower = replace(found, levels=(*found.levels[:3], replace(found.levels[3], be_tokens_per_s=5.0)))
    assert slower.best is not None
    assert (slower.best.num_be_clients, slower.failed) == (2, None)


def test_goodput_is_nothing_where_no_best_effort_client_is_borne() -> None:
    alone_at_most = server(boundary=0, most=1)
    assert alone_at_most.tokens_per_s == pytest.approx(0.1)
    none = server(boundary=-1, most=0)
    assert (none.best, none.tokens_per_s) == (None, 0.0)
    assert none.alone is not None
    assert none.alone.share == 0.25


def test_a_level_that_was_cut_short_is_no_goodput() -> None:
    found = server(boundary=4, most=4)
    cut_short = replace(found.levels[-1], is_decided=False)
    assert replace(found, levels=(*found.levels[:-1], cut_short)).tokens_per_s == 20.1


def test_a_result_file_reads_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    servers = [server("a"), server("b", boundary=-1, most=0)]
    path.write_text(dump(to_json(servers)))
    read = read_goodputs(path)
    assert dump(to_json(read)) == dump(to_json(servers))
    values = json.loads(path.read_text())
    assert values["schema"] == "qllm-bench-goodput/1"
    assert values["goodput_tokens_per_s"] == {"a": 40.1, "b": 0.0}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"schema": "qllm-bench/1"}', "'qllm-bench/1'; allowed is 'qllm-bench-goodput/1'"),
        ('{"schema": "qllm-bench-goodput/1"}', "no complete result: KeyError"),
        ('{"schema": "qllm-bench-goodput/1", "servers": [{"label": 3}]}', "no complete result: TypeError"),
    ],
)
def test_what_is_no_such_file_is_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BadFile) as caught:
        read_goodputs(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert why in str(caught.value)
