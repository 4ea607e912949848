"""`qllm-scheduler new-key` makes keys that the file of --api-keys lets in."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scheduler_svc.__main__ import main
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.security.grant import Permission
from tests.support.security.api_keys import gate_of

Call = Callable[..., int]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["qllm-scheduler", "new-key", *words])
        monkeypatch.setattr(sys, "stderr", sys.stderr)  # the command puts another in its place
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    return run


def test_a_new_key_is_let_in_by_the_entry_beside_it(
    call: Call, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call("acme", "--permission", "generate", "--permission", "observe", "--class", "be") == 0
    entry, shown = capfd.readouterr()
    key = shown.split()[-1]
    assert key.startswith("qllm_")
    assert key not in entry  # which goes into a file
    grant = gate_of(tmp_path / "keys.toml", entry).grant_of(f"Bearer {key}")
    assert grant.tenant == "acme"
    assert grant.permissions == {Permission.GENERATE, Permission.OBSERVE}
    assert grant.classes == {RequestClass.BEST_EFFORT}


def test_no_two_keys_are_the_same(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    call("acme")
    call("acme")
    shown = capfd.readouterr().err.splitlines()
    assert len(set(shown)) == len(shown) == 2


@pytest.mark.parametrize("words", [("two words",), ("",), ("acme", "--class", "fast"), ("acme", "--permission", "all")])
def test_what_the_file_would_refuse_is_refused_at_once(
    call: Call, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(*words) == 2
    assert "qllm_" not in "".join(capfd.readouterr())
