from pathlib import Path

import pytest

from gpu_worker.machine.whole_file import why_not_writable, write_whole


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_whole(file, "old")
    before = file.stat().st_ino
    write_whole(file, "new")
    assert file.read_text() == "new"
    assert file.stat().st_ino != before
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_in_the_way_is_said_before_anything_is_written(tmp_path: Path) -> None:
    assert why_not_writable(tmp_path / "a.json") is None
    assert why_not_writable(tmp_path) == "it is a directory"
    assert why_not_writable(tmp_path / "none" / "a.json") == "No such file or directory"
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_there_is_not_touched_by_trying(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("kept")
    assert why_not_writable(file) is None
    assert file.read_text() == "kept"


def test_a_failed_writing_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("kept")
    (tmp_path / "a.json.partial").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(file, "new")
    assert file.read_text() == "kept"
