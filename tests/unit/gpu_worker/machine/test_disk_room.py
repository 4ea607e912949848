"""What is in the way of a file is known before it is made."""

import os
from pathlib import Path

import pytest

from gpu_worker.machine.disk_room import why_no_room


def test_a_directory_with_room_is_taken_and_any_other_path_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert why_no_room(tmp_path, 1) is None
    assert why_no_room(tmp_path / "missing", 1) == "it does not exist"
    assert why_no_room(file, 1) == "it is not a directory"
    assert str(why_no_room(tmp_path, 1 << 60)).endswith(f"bytes are free, {1 << 60} are needed")


def test_a_directory_that_may_not_be_written_to_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # the superuser may write anywhere
    assert why_no_room(tmp_path, 1) == "it may not be written to"
