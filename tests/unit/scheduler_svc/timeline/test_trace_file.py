"""The file opens whatever happens to the process, and never costs the caller time, memory or disk without bound."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scheduler_svc.timeline.trace_file import TraceFile

MIB = 1 << 20


def event(number: int) -> dict[str, object]:
    return {"ph": "i", "name": f"event {number}", "ts": number, "pid": 1, "tid": 1}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_closed_trace_is_a_json_array_of_all_events_in_order(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with TraceFile(path, MIB) as trace:
        for number in range(2000):
            trace.add(event(number))
    assert json.loads(path.read_text()) == [event(number) for number in range(2000)]


def test_an_empty_trace_is_an_empty_array(tmp_path: Path) -> None:
    with TraceFile(tmp_path / "trace.json", MIB):
        pass
    assert json.loads((tmp_path / "trace.json").read_text()) == []


def test_an_earlier_trace_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text("x" * 10_000)
    with TraceFile(path, MIB) as trace:
        trace.add(event(1))
    assert json.loads(path.read_text()) == [event(1)]


def test_after_a_kill_all_but_the_closing_bracket_is_there(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    script = (
        "import sys, time; from pathlib import Path; from scheduler_svc.timeline.trace_file import TraceFile\n"
        "with TraceFile(Path(sys.argv[1]), 1 << 20) as trace:\n"
        "    [trace.add({'ph': 'i', 'ts': n}) for n in range(100)]\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    wait_until(lambda: path.exists() and path.stat().st_size > 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    text = path.read_text()
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(text)
    assert json.loads(text + "]")[-1] == {"ph": "i", "ts": 99}


def test_recording_ends_at_the_size_limit_with_a_whole_event_and_a_word_about_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trace.json"
    with caplog.at_level(logging.WARNING), TraceFile(path, 60_000) as trace:
        for number in range(5_000):
            trace.add(event(number))
        wait_until(lambda: "trace_full" in caplog.text)
        trace.add(event(-1))
    assert path.stat().st_size <= 60_000 + len("\n]\n")
    events = json.loads(path.read_text())
    assert events == [event(number) for number in range(len(events))]
    assert events
    assert f"trace_full path={path} max_bytes=60000" in caplog.text


def test_what_waits_to_be_written_is_bounded_and_losses_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trace.json"
    trace = TraceFile(path, MIB, max_pending=10)
    with caplog.at_level(logging.WARNING):
        for number in range(25):  # nobody writes yet
            trace.add(event(number))
    with trace:
        pass
    assert trace.num_lost == 15
    assert caplog.text.count("trace_events_lost") == 1
    assert len(json.loads(path.read_text())) == 10


def test_a_full_disk_ends_the_recording_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), TraceFile(Path("/dev/full"), MIB) as trace:
        trace.add(event(1))
        wait_until(lambda: "trace_failed" in caplog.text)
        trace.add(event(2))
    assert "No space left" in caplog.text
