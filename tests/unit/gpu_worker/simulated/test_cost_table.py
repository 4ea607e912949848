"""`--simulated` takes a file or the name of a shipped table, and says what is wrong with either."""

import json
from pathlib import Path

import pytest
from qllm.settings import SettingRefused

from gpu_worker.simulated.cost_table import load_cost_table
from tests.unit.qllm.test_cost_table import TABLE, table


@pytest.mark.parametrize(("content", "reason"), [("[]", "got list"), ("{", "Expecting"), ("{}", "missing")])
def test_file_that_holds_no_table_is_refused_by_its_name(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(SettingRefused, match=f"--simulated: .*{path.name}.*{reason}"):
        load_cost_table(str(path))


def test_missing_file_is_refused_with_the_tables_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        SettingRefused,
        match="a100-mixtral-8x7b, h200-mixtral-8x7b, zen3-mini-mixtral, zen4-mini-mixtral, zen5-mini-mixtral, zero",
    ):
        load_cost_table(str(tmp_path / "none.json"))


def test_table_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TABLE))
    assert load_cost_table(str(path)) == table()


def test_table_is_found_by_its_name() -> None:
    assert load_cost_table("zero").is_free
