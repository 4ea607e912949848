import json
from dataclasses import replace
from pathlib import Path

import pytest
from qllm.client.bench.errors import BadFile
from qllm.client.bench.results.result_file import ABLATION_SCHEMA, dump, read_results

from tests.unit.client.bench.samples import result


def test_a_result_file_reads_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    made = result()
    path.write_text(dump(made.to_json()))
    (read,) = read_results(path)
    assert dump(read.to_json()) == dump(made.to_json())
    assert (read.rows, read.summary, read.provenance) == (made.rows, made.summary, made.provenance)


def test_an_ablations_file_holds_several_results(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    values = {
        "schema": ABLATION_SCHEMA,
        "gains": [],
        "recordings": [result("a").to_json(), result("b").to_json()],
    }
    path.write_text(dump(values))
    assert [one.label for one in read_results(path)] == ["a", "b"]


def test_files_of_older_results_are_still_read() -> None:
    (file,) = (Path(__file__).parents[5] / "docs/measurements/raw").glob("ablation-2026-11-29-*.json")
    assert [one.summary.idle_tpot for one in read_results(file)] == [None] * 5


def test_ten_thousand_requests_stay_below_a_megabyte() -> None:
    row = replace(
        result().rows[0], at_ms=123456.78, lag_ms=12.34, total_ms=12345.67, ttft_ms=1234.56, last_token_ms=12345.67
    )
    assert len(dump(replace(result(), rows=(row,) * 10_000).to_json())) < 2**20


def test_a_file_says_how_it_came_to_be() -> None:
    values = json.loads(dump(result().to_json()))
    assert values["schema"] == "qllm-bench/1"
    assert values["provenance"]["command"] == ["qllm-client", "bench", "ours"]
    assert values["rows"]["columns"][:2] == ["request_class", "index"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting"),
        ("[]", "schema is None"),
        ('{"schema": "qllm-bench/99"}', "'qllm-bench/99'; allowed is 'qllm-bench/1'"),
        ('{"schema": "qllm-bench/1"}', "no complete result: KeyError"),
    ],
)
def test_what_is_no_result_is_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BadFile) as caught:
        read_results(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert why in str(caught.value)


def test_a_value_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    values = result().to_json()
    path.write_text(json.dumps({**values, "bin_s": "short"}))
    with pytest.raises(BadFile, match="'short' stands where float is expected"):
        read_results(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"nothing\.json"):
        read_results(tmp_path / "nothing.json")
