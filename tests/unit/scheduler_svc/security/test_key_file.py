"""An edited file of keys counts within a second; a broken one leaves the keys of before."""

import logging
import os
from pathlib import Path

import pytest

from scheduler_svc.security.key_entries import KeysRefused
from scheduler_svc.security.key_file import KeyFile
from tests.support.security.api_keys import entry, write_keys

A, B = entry("a", "key a"), entry("b", "key b")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_keys(tmp_path / "keys.toml", A)


def tenants(file: KeyFile, now_s: float) -> list[str]:
    return [one.tenant for one in file.entries(now_s)]


def test_a_changed_file_counts_after_a_second(path: Path) -> None:
    file = KeyFile(path)
    assert tenants(file, 0.0) == ["a"]
    write_keys(path, A, B)
    assert tenants(file, 0.9) == ["a"]
    assert tenants(file, 1.0) == ["a", "b"]


def test_a_file_that_is_replaced_counts_though_its_time_and_size_are_those_of_before(path: Path) -> None:
    file = KeyFile(path)
    facts = path.stat()
    other = write_keys(path.with_name("other"), entry("b", "key a"))
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert other.stat().st_size == facts.st_size
    other.replace(path)
    assert tenants(file, 0.0) == ["b"]


@pytest.mark.parametrize("damage", ["is no TOML", "is gone", "is open to others"])
def test_a_broken_file_keeps_the_old_keys_and_is_told_of_once(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = KeyFile(path)
    if damage == "is no TOML":
        path.write_text("[[keys]")
    elif damage == "is gone":
        path.unlink()
    else:
        path.chmod(0o644)
    for now_s in (0.0, 1.0, 2.0):
        assert tenants(file, now_s) == ["a"]
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert line.startswith(f"api_keys_kept files={str(path)!r} error=")
    path.unlink(missing_ok=True)
    write_keys(path, B)
    assert tenants(file, 3.0) == ["b"]


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o602, 0o601])
def test_a_file_that_others_can_read_or_change_is_refused_with_the_command_that_helps(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(KeysRefused, match=rf"\(mode {mode:04o}\); run: chmod g-w,o-rwx {path}"):
        KeyFile(path)


def test_a_file_that_a_group_may_read_is_taken(path: Path) -> None:
    path.chmod(0o640)
    assert tenants(KeyFile(path), 0.0) == ["a"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeysRefused, match="which can't be read: No such file"):
        KeyFile(tmp_path / "nothing")
    with pytest.raises(KeysRefused, match="which can't be read: Is a directory"):
        KeyFile(tmp_path)
    (tmp_path / "latin").touch(0o600)
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(KeysRefused, match="it is not UTF-8"):
        KeyFile(tmp_path / "latin")
