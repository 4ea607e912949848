"""The command names its cells, refuses those that there are none of, and leaves its result in a file."""

import json
from collections import Counter
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.faults import __main__ as command
from tests.faults.checker.verdict import Flaw, Outcome
from tests.faults.runs.cell_result import CellResult
from tests.faults.runs.kills import Kill, KillsResult


def test_cells_are_named_without_starting_anything() -> None:
    result = CliRunner().invoke(command.app, ["matrix", "--list", "--cells", "worker-kill@d*"])
    assert result.exit_code == 0
    assert result.stdout.split() == ["worker-kill@decode", "worker-kill@draining"]


def test_cells_that_there_are_none_of_are_refused() -> None:
    result = CliRunner().invoke(command.app, ["matrix", "--cells", "worker-kiss@decode"])
    assert result.exit_code == 2
    assert "worker-kiss@decode" in result.output


@pytest.mark.parametrize("is_clean", [True, False])
def test_the_result_is_kept_and_the_exit_code_says_whether_all_was_well(tmp_path: Path, is_clean: bool) -> None:
    cell = CellResult("worker-kill@decode", outcomes=Counter({Outcome.WHOLE: 3}), flaws=Counter({Flaw.LOST: 2}))
    kills = KillsResult(kills=[Kill(1.0, 8, 0.25, None, (0.5,))])
    with pytest.raises(typer.Exit) as caught:
        command._end([cell, kills], tmp_path / "result.json", is_clean=is_clean)
    assert caught.value.exit_code == (0 if is_clean else 1)
    kept = json.loads((tmp_path / "result.json").read_text())
    assert kept["is_clean"] == is_clean
    assert kept["result"][0]["flaws"] == {"lost": 2}
    assert kept["result"][1]["kills"][0]["detect_s"] == 0.25


def test_options_of_the_scheduler_come_last_so_that_they_win() -> None:
    settings = command._settings(
        command.Worker.SIMULATED, ["--hang-timeout-s=5", "--no-prefix-caching"], ("--grace-s", "1")
    )
    assert settings.options[-3:] == ("--hang-timeout-s", "5", "--no-prefix-caching")
    assert settings.simulated
