"""Help that is readable at 80 columns, choices in either case, and output that cannot be written."""

import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from qllm.client.__main__ import main as client
from qllm.version import __version__

from demo.__main__ import main as demo
from gpu_worker.__main__ import main as worker
from scheduler_svc.__main__ import main as scheduler
from tests.support.service.live_service import ROOT

BENCH = ("", "compare", "ablation", "paper", "simulate", "timeline", "predictions")
COMMANDS = [
    (scheduler, ()),
    (worker, ()),
    (client, ()),
    *((client, (name,)) for name in ("generate", "chat", "health", "stats")),
    *((client, ("bench", *filter(None, [name]))) for name in BENCH),
]
Entry = Callable[[], None]


@pytest.fixture(autouse=True)
def keep_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves this process's standard error, which commands put in order for themselves, to the tests."""
    for command in ("scheduler_svc", "gpu_worker"):
        monkeypatch.setattr(f"{command}.__main__.report_without_failing", lambda: None)


def help_of(
    entry: Entry,
    words: tuple[str, ...],
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", ["command", *words, "--help"])
    with pytest.raises(SystemExit) as ended:
        entry()
    assert not ended.value.code
    return capsys.readouterr().out


def option_names(page: str) -> set[str]:
    """Returns the names in the first columns of the tables."""
    first = re.findall(r"^│ [ *]{0,3}(--[a-z-]+)", page, re.MULTILINE)
    return {*first, *re.findall(r"--no-[a-z-]+", page)}


@pytest.mark.parametrize(
    ("entry", "words"), COMMANDS, ids=lambda part: "-".join(part) if isinstance(part, tuple) else ""
)
def test_help_at_80_columns_cuts_nothing(
    entry: Entry, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = help_of(entry, words, 80, monkeypatch, capsys)
    wide = option_names(help_of(entry, words, 400, monkeypatch, capsys))
    assert "--help" in wide
    assert option_names(page) == wide
    assert "…" not in page
    assert max(map(len, page.splitlines())) <= 80


@pytest.mark.parametrize(
    ("entry", "words"), COMMANDS, ids=lambda part: "-".join(part) if isinstance(part, tuple) else ""
)
def test_a_paragraph_of_help_breaks_only_where_the_terminal_ends(
    entry: Entry, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _, _ = help_of(entry, words, 600, monkeypatch, capsys).partition("╭")
    paragraphs = re.split(r"\n\s*\n", text.strip())
    assert [paragraph for paragraph in paragraphs if "\n" in paragraph] == []


@pytest.mark.parametrize("entry", [scheduler, worker])
def test_help_lists_the_words_that_may_be_chosen(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = help_of(entry, (), 400, monkeypatch, capsys)
    assert "Sets how much is logged. One of: debug, info, warning, error." in page


@pytest.mark.parametrize("entry", [scheduler, worker])
def test_help_says_how_the_environment_is_read(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = " ".join(help_of(entry, (), 80, monkeypatch, capsys).split())
    assert re.search(r"Every option may also come from the environment, --\S+ as QLLM_", page)


@pytest.mark.parametrize(
    ("entry", "name"),
    [(scheduler, "qllm-scheduler"), (worker, "qllm-worker"), (client, "qllm-client"), (demo, "python -m demo")],
)
def test_each_program_says_its_version_whatever_else_is_missing(
    entry: Entry, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--version"])
    with pytest.raises(SystemExit) as ended:
        entry()
    assert not ended.value.code
    assert capsys.readouterr() == (f"{name} {__version__}\n", "")
    assert "--version" in option_names(help_of(entry, (), 80, monkeypatch, capsys))


@pytest.mark.parametrize(
    "words",
    [("generate",), ("chat", "--class", "be"), ("batch",), ("batch", "submit", "x"), ("bench",), ("bench", "compare")],
    ids=" ".join,
)
def test_the_version_is_said_behind_a_command_too(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *words, "--version"])
    with pytest.raises(SystemExit) as ended:
        client()
    assert not ended.value.code
    assert capsys.readouterr() == (f"qllm-client {__version__}\n", "")


def refusal_of(entry: Entry, *words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as ended:
        entry()
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_choices_are_read_in_either_case(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("QLLM_LOG_LEVEL", "INFO")
    words = ("--policy", "FCFS", "--preempt-at", "Layer", "--max-num-seqs", "-1")
    assert "--max-num-seqs" in refusal_of(scheduler, *words, monkeypatch=monkeypatch, capsys=capsys)
    words = ("--control-endpoint", "ipc:///x", "--model", ".", "--dtype", "Float32", "--block-size", "-1")
    assert "--block-size" in refusal_of(worker, *words, monkeypatch=monkeypatch, capsys=capsys)


def test_a_wrong_choice_is_refused_with_those_that_are_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = refusal_of(scheduler, "--log-level", "loud", monkeypatch=monkeypatch, capsys=capsys)
    assert "loud" in refusal
    assert "debug" in refusal


@pytest.mark.parametrize("module", ["qllm.client", "scheduler_svc", "gpu_worker"])
def test_output_that_cannot_be_written_is_one_line_and_exit_1(module: str) -> None:
    with open("/dev/full", "wb") as full:
        finished = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert finished.returncode == 1
    assert finished.stderr.endswith(": the output cannot be written: No space left on device\n")
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "--class", "maybe"), "'--class': 'maybe' is not one of 'ls', 'be'."),
        (("generate", "--max-tokens", "x"), "'--max-tokens': got 'x', allowed is an integer"),
        (("generate", "--top-p", "x"), "'--top-p': got 'x', allowed is a number"),
        (("batch", "results", "id", "--from", "x"), "'--from': got 'x', allowed is an integer"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_the_programs_own_words(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert f"Invalid value for {said} " in refusal_of(client, *words, monkeypatch=monkeypatch, capsys=capsys)
