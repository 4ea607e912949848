"""docs/settings.md and docker-compose.yml come from the settings' fields, help and units included."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from qllm.client.bench.commands.paper import PaperOptions
from qllm.client.bench.commands.simulate import ExperimentOptions, TrafficOptions
from qllm.client.bench.options.load import LoadOptions
from qllm.client.bench.options.target import ResultOptions, ServiceArguments, TargetOptions
from qllm.client.cli.generate import GenerateSettings
from qllm.settings import PlacedSetting, settings_of

from gpu_worker.memory_size import ALLOWED
from gpu_worker.settings import WorkerConfig
from scheduler_svc.settings import Config
from scripts import settings
from tests.support.channel.control_channel import python_path
from tests.support.service.live_service import ROOT

CLIENT = (
    GenerateSettings,
    PaperOptions,
    ExperimentOptions,
    TrafficOptions,
    LoadOptions,
    ResultOptions,
    ServiceArguments,
    TargetOptions,
)
ALL = [one for kind in (Config, WorkerConfig, *CLIENT) for one in settings_of(kind)]
each = pytest.mark.parametrize("one", ALL, ids=lambda one: one.option)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of what is generated."""
    for name in (settings.PAGE, settings.COMPOSE):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_generated_is_fresh(tree: Path) -> None:
    assert list(settings.problems()) == []


def test_what_is_generated_does_not_depend_on_where() -> None:
    elsewhere = {**os.environ, **python_path(), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "3"}
    elsewhere |= {one.environment: "1" for kind in (Config, WorkerConfig) for one in settings_of(kind)}
    command = [sys.executable, "-m", "scripts.settings", "check"]
    done = subprocess.run(command, cwd=ROOT, env=elsewhere, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [settings.PAGE, settings.COMPOSE])
@pytest.mark.parametrize("setting", ["QLLM_LS_TTFT_MS", "QLLM_KV_MEMORY"])
def test_a_setting_that_is_missing_or_unknown_is_noticed(tree: Path, name: Path, setting: str) -> None:
    text = (tree / name).read_text()
    for wrong in (re.sub(rf".*{setting}.*\n", "", text), text.replace(setting, "QLLM_SPEED")):
        (tree / name).write_text(wrong)
        assert list(settings.problems()) == [f"{name}: stale; run `make settings`"]


def test_a_list_that_lost_its_marks_is_noticed(tree: Path) -> None:
    text = (tree / settings.COMPOSE).read_text()
    (tree / settings.COMPOSE).write_text(text.replace("# settings of the worker, generated", ""))
    assert list(settings.problems()) == [f"{settings.COMPOSE}: its two generated lists are not where they were"]


def test_a_new_setting_needs_no_other_line(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_another(kind: type) -> tuple[PlacedSetting, ...]:
        found = settings_of(kind)
        new = replace(found[-1], setting=replace(found[-1].setting, option="new-limit-ms"), kind=float, default=1.0)
        return (*found, replace(new, help="Sets a limit.")) if kind is Config else found

    monkeypatch.setattr(settings, "settings_of", with_another)
    assert len(list(settings.problems())) == 2
    monkeypatch.setattr("sys.argv", ["settings", "generate"])
    assert settings.main() == 0
    assert list(settings.problems()) == []
    assert "| `--new-limit-ms` | `QLLM_NEW_LIMIT_MS` | 1 ms | number ms |" in (tree / settings.PAGE).read_text()
    assert "      QLLM_NEW_LIMIT_MS:\n" in (tree / settings.COMPOSE).read_text()


@pytest.mark.parametrize(("default", "cell"), [(1.5, "1.5 ms"), (0.0, "0 ms"), (0, "0 ms"), (None, "none")])
def test_a_default_has_its_unit(default: float | None, cell: str) -> None:
    (found,) = [one for one in settings_of(Config) if one.option == "--ls-tpot-ms"]
    one = replace(found, setting=replace(found.setting, scale=1.0), default=default)
    assert f"| {cell} | 0 to 60000 ms |" in list(settings._table([one]))[-1]


def test_a_text_of_a_form_of_its_own_says_what_is_allowed() -> None:
    (one,) = [one for one in settings_of(WorkerConfig) if one.option == "--kv-memory"]
    assert f"| {ALLOWED} |" in list(settings._table([one]))[-1]


@each
def test_help_is_sentences_that_stand_alone(one: PlacedSetting) -> None:
    assert re.fullmatch(r"[A-Z][a-z]+ .*\.", one.help)
    first_word = one.help.split()[0]
    assert first_word.endswith("s"), "a sentence whose subject is the option"
    assert not re.search(r"likewise|ditto|the same|\.\.\. ", one.help, re.IGNORECASE)


@each
def test_options_that_a_help_text_names_exist(one: PlacedSetting) -> None:
    owner = next(kind for kind in (Config, WorkerConfig, None) if kind is None or one in settings_of(kind))
    known: Any = {other.option for other in (settings_of(owner) if owner else ALL)} | {
        "--scheduler-arg",
        "--worker-arg",
    }
    assert set(re.findall(r"(?<![\w=-])--[a-z-]+", one.help)) <= known


def test_no_two_settings_of_a_process_share_a_name() -> None:
    for kind in (Config, WorkerConfig):
        names = [one.key for one in settings_of(kind)]
        assert len(names) == len(set(names))
