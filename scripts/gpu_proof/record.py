"""Keeps what a proof has found: three files that are whole at any time, whatever ends the process."""

import json
import os
import textwrap
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "qllm-gpu-proof/1"
_MOST_LOG_BYTES = 12 << 20
_TAIL_BYTES = 2_000
_WIDTH = 120
_LAST_ERROR_LINES = 3
_MOST_NOTES = 4

NOT_REACHED = "not reached"
RUNNING = "running"
PASSED = "passed"
FAILED = "failed"
CRASHED = "crashed"
TIMED_OUT = "timed out"
INTERRUPTED = "interrupted"
SKIPPED = "skipped"


@dataclass(slots=True)
class StepRecord:
    """What came of one step.

    Attributes:
        status: One of this module's words.
        seconds: How long it took.
        box_s: How long it was given.
        figures: Values by name, of each figure by its name.
        notes: What else was seen, a sentence each.
        error: Why it did not pass; empty if it did.
    """

    status: str = NOT_REACHED
    seconds: float = 0.0
    box_s: float = 0.0
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str = ""


class Log:
    """A file for all that processes print, up to a size; any thread may write."""

    def __init__(self, path: Path, most_bytes: int = _MOST_LOG_BYTES) -> None:
        self._most_bytes = most_bytes
        self._file = path.open("wb", buffering=0)
        self._lock = threading.Lock()
        self._num_bytes = 0
        self._tail = b""

    def write(self, data: bytes) -> None:
        """Appends what fits."""
        with self._lock:
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
            room = self._most_bytes - self._num_bytes
            self._file.write(data[: max(room, 0)])
            if 0 < room < len(data):
                self._file.write(b"\n[the log is full]\n")
            self._num_bytes += len(data)

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def last_lines(self, count: int) -> str:
        """The last lines that were written, also those that did not fit."""
        with self._lock:
            return "\n".join(self._tail.decode(errors="replace").splitlines()[-count:])


class Record:
    """The proof's results so far, written anew with every change.

    Args:
        folder: Where results.json, summary.txt and log.txt go.
        facts: What is true of the whole proof: its start, its command, its code.
        names: Names of the steps, in order.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], names: tuple[str, ...]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = Log(folder / "log.txt")
        self.steps = {name: StepRecord() for name in names}
        self._folder = folder
        self._facts = dict(facts)
        self._began_s = time.monotonic()

    def state(self, **facts: Any) -> None:
        """Adds facts of the whole proof."""
        self._facts |= facts
        self.write()

    def note_result(self) -> None:
        """Notes when the first result came."""
        self._facts.setdefault("first_result_s", round(time.monotonic() - self._began_s, 2))

    def write(self) -> None:
        """Writes results.json and summary.txt; each is replaced whole."""
        self._facts["seconds"] = round(time.monotonic() - self._began_s, 1)
        document = {"schema": SCHEMA, **self._facts, "steps": {name: asdict(one) for name, one in self.steps.items()}}
        self._replace("results.json", json.dumps(document, indent=1))
        self._replace("summary.txt", self.summary())

    def summary(self) -> str:
        """One screen: what was proven, on what."""
        facts = "  ".join(f"{name} {value}" for name, value in self._facts.items() if not isinstance(value, list))
        missing = [f"missing: {need}" for need in self._facts.get("missing", [])]
        blocks = [self.block(name) for name in self.steps]
        return "\n".join([*textwrap.wrap(f"GPU proof: {facts}", _WIDTH), *missing, *blocks]) + "\n"

    def block(self, name: str) -> str:
        """What came of one step, in a few lines."""
        one = self.steps[name]
        took = f"{one.seconds:6.1f} s of {one.box_s:.0f} s" if one.box_s else ""
        lines = [f"{name:12} {one.status:12}{took}"]
        for figure, values in one.figures.items():
            shown = ", ".join(f"{key} {_short(value)}" for key, value in values.items() if value is not None)
            lines += textwrap.wrap(f"{figure}: {shown}", _WIDTH, initial_indent="    ", subsequent_indent="        ")
        lines += [f"    - {note[: _WIDTH - 6]}" for note in one.notes[:_MOST_NOTES]]
        if len(one.notes) > _MOST_NOTES:
            lines.append(f"    - and {len(one.notes) - _MOST_NOTES} more in results.json")
        error = one.error.splitlines()
        lines += [f"    ! {line[:_WIDTH]}" for line in (*error[:1], *error[1:][-_LAST_ERROR_LINES:])]
        return "\n".join(lines)

    def _replace(self, name: str, text: str) -> None:
        fresh = self._folder / f".{name}.new"
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, self._folder / name)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
