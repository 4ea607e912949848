import asyncio
import logging
import os
from pathlib import Path

import pytest

from scheduler_svc.core.sessions import ToolTimes
from scheduler_svc.serving.tool_times_file import StateDirectoryRefused, ToolTimesFile

NAME = "tool-times.jsonl"


async def saved(directory: Path, *durations_s: float) -> None:
    """Lets a service live that learns some durations."""
    times = ToolTimes()
    async with ToolTimesFile(directory, times):
        for seconds in durations_s:
            times.record("search", seconds)


async def read(directory: Path) -> ToolTimes:
    times = ToolTimes()
    async with ToolTimesFile(directory, times):
        return times


async def test_what_was_learned_is_known_after_a_restart(tmp_path: Path) -> None:
    await saved(tmp_path / "state", 1.5, 0.25)
    assert (await read(tmp_path / "state")).snapshot() == [(None, [1.5, 0.25]), ("search", [1.5, 0.25])]


async def test_it_is_saved_while_the_service_lives(tmp_path: Path) -> None:
    times = ToolTimes()
    async with ToolTimesFile(tmp_path, times, interval_s=0.001):
        times.record("search", 1.0)
        async with asyncio.timeout(10):
            while not (tmp_path / NAME).exists():  # noqa: ASYNC110  # a file says nothing when it comes
                await asyncio.sleep(0.001)
    assert "search" in (tmp_path / NAME).read_text()


async def test_what_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    await saved(tmp_path, 1.0)
    (tmp_path / NAME).chmod(0o640)  # which a new file would not have
    await saved(tmp_path)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o640


async def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    await saved(tmp_path / "state", 1.0)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b'{"schema": "qllm-tool-times/1"}\n[null, [1.0',
        b'{"schema": "qllm-tool-times/1"}\n[null, [-1.0]]\n',
        b'{"schema": "another/1"}\n[null, [1.0]]\n',
        b"[" * 100_000,
    ],
)
async def test_a_damaged_file_is_put_aside_and_all_begins_anew(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(content)
    with caplog.at_level(logging.ERROR):
        assert (await read(tmp_path)).snapshot() == [(None, [])]
    assert [record.message.split()[0] for record in caplog.records] == ["tool_times_damaged"]
    assert (tmp_path / "tool-times.damaged").read_bytes() == content
    await saved(tmp_path, 1.0)
    assert (await read(tmp_path)).num_tools == 1


async def test_a_directory_that_another_service_uses_is_refused(tmp_path: Path) -> None:
    async with ToolTimesFile(tmp_path, ToolTimes()):
        with pytest.raises(StateDirectoryRefused, match="another service"):
            ToolTimesFile(tmp_path, ToolTimes())
    await saved(tmp_path, 1.0)  # it is free again


async def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryRefused, match="cannot be used"):
        ToolTimesFile(tmp_path / "file", ToolTimes())


async def test_a_disk_that_fails_is_logged_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await saved(tmp_path, 1.0)
    before = (tmp_path / NAME).read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.ERROR):
        await saved(tmp_path, 2.0)
    assert [record.message.split()[0] for record in caplog.records] == ["tool_times_not_saved"]
    assert (tmp_path / NAME).read_text() == before
