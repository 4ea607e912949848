"""A command made of settings: where values come from, which of them wins, and how it refuses."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import pytest
import typer
from qllm.command_line import run_command
from qllm.options import with_settings
from qllm.settings import Setting, SettingRefused
from typer.testing import CliRunner, Result

from tests.unit.qllm.sample_settings import Colour, Inner, Sample

made: list[Sample] = []


@with_settings
def command(settings: Sample) -> None:
    """Does nothing."""
    made.append(settings)
    if settings.name == "late":
        raise SettingRefused("--name: got 'late', allowed is another")


@pytest.fixture(autouse=True)
def forget() -> None:
    made.clear()


def call(*words: str, **environment: str) -> Result:
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return CliRunner().invoke(app, words, env=environment, prog_name="sample", catch_exceptions=False)


def settings_of_call(*words: str, **environment: str) -> Sample:
    result = call(*words, **environment)
    assert result.exit_code == 0, result.stderr
    (sample,) = made
    made.clear()
    return sample


def refusal(*words: str, **environment: str) -> str:
    result = call(*words, **environment)
    assert (result.exit_code, made) == (2, [])
    return result.stderr


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "qllm.toml"
    path.write_text("count = 4\nmax-wait-ms = 40\ntag = ['f', 'g']\nshape = 'square'\n[scheduler]\nshare = 0.4\n")
    return str(path)


def test_what_nobody_sets_has_the_fields_defaults() -> None:
    assert settings_of_call() == Sample()


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(file: str) -> None:
    config = ("--config", file)
    of_file = settings_of_call(*config)
    assert (of_file.count, of_file.inner, of_file.tags, of_file.shape) == (4, Inner(0.04, 0.4), ("f", "g"), "square")
    environment = {"QLLM_COUNT": "5", "QLLM_MAX_WAIT_MS": "50", "QLLM_TAG": "e", "QLLM_SHAPE": "round"}
    of_environment = settings_of_call(*config, **environment)
    assert (of_environment.count, of_environment.inner) == (5, Inner(0.05, 0.4))
    assert (of_environment.tags, of_environment.shape) == (("e",), "round")
    options = ("--count", "6", "--max-wait-ms", "60", "--tag", "o", "--tag", "p", "--colour", "blue", "--fast")
    of_options = settings_of_call(*config, *options, **environment)
    assert (of_options.count, of_options.inner, of_options.tags) == (6, Inner(0.06, 0.4), ("o", "p"))
    assert (of_options.colour, of_options.fast) == (Colour.BLUE, True)


def test_the_command_line_can_switch_off_what_the_environment_or_the_file_switches_on(tmp_path: Path) -> None:
    path = tmp_path / "qllm.toml"
    path.write_text("fast = true")
    assert settings_of_call("--config", str(path)).fast is True
    assert settings_of_call("--config", str(path), "--no-fast").fast is False
    assert settings_of_call("--no-fast", QLLM_FAST="true").fast is False
    assert settings_of_call("--config", str(path), QLLM_FAST="false").fast is False


def test_an_empty_variable_sets_nothing(file: str) -> None:
    assert settings_of_call("--config", file, QLLM_COUNT="").count == 4


def test_the_environment_may_name_the_file(file: str) -> None:
    assert settings_of_call(QLLM_CONFIG=file).count == 4


def test_what_is_for_programs_only_is_no_environment_variable(file: str) -> None:
    shared = settings_of_call(QLLM_SHARED_CONFIG=file)
    assert (shared.shared_file, shared.inner) == (None, Inner())
    assert settings_of_call("--shared-config", file).inner.share == 0.4


def test_the_own_file_wins_over_a_shared_one_in_either_order(file: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared.toml"
    shared.write_text("anything = 1\n[scheduler]\ncount = 8\nshare = 0.8\nleast = 7")
    for words in (
        ("--config", file, "--shared-config", str(shared)),
        ("--shared-config", str(shared), "--config", file),
    ):
        sample = settings_of_call(*words)
        assert (sample.count, sample.inner.share, sample.least) == (4, 0.4, 7)


def test_words_after_two_hyphens_are_passed_on() -> None:
    assert settings_of_call("--count", "2", "--", "--dtype", "x").rest == ("--dtype", "x")


@pytest.mark.parametrize("value", ["0", "10"])
def test_a_range_holds_on_all_three_ways_in(value: str, tmp_path: Path) -> None:
    allowed = "allowed is 1 to 9\n"
    assert refusal("--count", value) == f"sample: --count: got {value}, {allowed}"
    source = "from the environment QLLM_COUNT"
    assert refusal(QLLM_COUNT=value) == f"sample: --count: got {value} {source}, {allowed}"
    path = tmp_path / "q.toml"
    path.write_text(f"count = {value}")
    assert refusal("--config", str(path)) == f"sample: {path}: count: got {value}, {allowed}"


def test_a_refusal_by_the_command_itself_is_one_line_too() -> None:
    result = call("--name", "late")
    assert (result.exit_code, result.stderr) == (2, "sample: --name: got 'late', allowed is another\n")


def test_check_config_says_each_value_and_where_it_comes_from_and_starts_nothing(file: str) -> None:
    result = call("--check-config", "--config", file, "--name", "n", QLLM_LEAST="6")
    assert (result.exit_code, made) == (0, [])
    header, *lines = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    assert header == ["setting", "value", "from"]
    rows = {line[0]: tuple(line[1:]) for line in lines if line[0] != "after"}
    assert rows["--name"] == ("n", "command line")
    assert rows["--least"] == ("6", "environment QLLM_LEAST")
    assert rows["--max-wait-ms"] == ("40", f"file {file}")
    assert rows["--share"] == ("0.4", f"file {file}")
    assert rows["--colour"] == ("red", "default")
    assert "--shared-config" not in rows
    assert len(rows) == 11


@pytest.mark.parametrize(("given", "said"), [("3599.9999", "3599.9999"), ("0.123456789", "0.123456789"), ("5.0", "5")])
def test_check_config_says_a_number_as_it_is_in_force(given: str, said: str) -> None:
    result = call("--check-config", "--max-wait-ms", given)
    assert re.search(r"^--max-wait-ms +(\S+)", result.stdout, re.MULTILINE)[1] == said  # type: ignore[index]


def test_check_config_does_not_say_the_password_in_a_url() -> None:
    result = call("--check-config", "--name", "postgresql://me:hunter/2@host:5432/jobs")
    assert "postgresql://me:…@host:5432/jobs" in result.stdout
    assert "hunter" not in result.stdout


def test_check_config_refuses_what_a_start_would_refuse() -> None:
    result = call("--check-config", "--count", "0")
    assert result.exit_code == 2
    assert result.stdout.startswith("setting")
    assert result.stderr == "sample: --count: got 0, allowed is 1 to 9\n"


def test_a_process_may_have_more_to_check_than_its_own_settings() -> None:
    checked: list[Sample] = []

    def check(settings: Sample) -> None:
        checked.append(settings)
        raise SettingRefused("it is not allowed elsewhere")

    @partial(with_settings, also_check=check)
    def start(settings: Sample) -> None:
        made.append(settings)

    app = typer.Typer(add_completion=False)
    app.command()(start)
    result = CliRunner().invoke(app, ["--check-config", "--count", "4"], prog_name="sample")
    assert (result.exit_code, result.stderr) == (2, "sample: it is not allowed elsewhere\n")
    assert CliRunner().invoke(app, ["--count", "5"]).exit_code == 0
    assert ([one.count for one in checked], [one.count for one in made]) == ([4], [5])


def test_help_is_grouped_by_subject_and_says_ranges_and_what_holds_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["sample", "--help"])
    app = typer.Typer(add_completion=False)
    app.command()(command)
    with pytest.raises(SystemExit):
        run_command(app, "sample")
    page = capsys.readouterr().out
    assert [title for title in ("─ Options ─", "─ Model ─", "─ Scheduling ─") if title in page] == [
        "─ Options ─", "─ Model ─", "─ Scheduling ─",
    ]  # fmt: skip
    words = " ".join(page.replace("│", " ").split())
    assert "Limits the wait. Allowed is 0 to 60000. [default: 5.0]" in words
    assert "Counts from two. Allowed is 2 or more." in words
    assert "Names it. [default: (nobody)]" in words
    assert "Paints it. One of: red, blue. [default: red]" in words
    assert "the tables [scheduler] and [worker]" in words.lower()
    assert "shared-config" not in page


@dataclass(frozen=True)
class Plain:
    count: Annotated[int, Setting(1, 9), "Counts."] = 3
    ignore_eos: Annotated[bool, Setting(), "Goes on."] = True


def test_a_command_without_a_config_file_reads_no_environment_and_keeps_its_other_parameters() -> None:
    seen: list[tuple[Plain, str]] = []

    @with_settings
    def plain(context: typer.Context, settings: Plain, label: Annotated[str, typer.Option()] = "x") -> None:
        assert context.info_name == "plain"
        seen.append((settings, label))

    app = typer.Typer(add_completion=False)
    app.command()(plain)
    words = ["--label", "y", "--no-ignore-eos"]
    CliRunner().invoke(app, words, env={"QLLM_COUNT": "4"}, prog_name="plain", catch_exceptions=False)
    assert seen == [(Plain(ignore_eos=False), "y")]
    assert CliRunner().invoke(app, ["--check-config"]).exit_code == 2
