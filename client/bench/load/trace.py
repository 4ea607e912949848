"""Reads workload traces: when requests came, and how long they were. Knows nothing of classes and servers.

The columns are those of the Azure LLM inference traces: `TIMESTAMP,ContextTokens,GeneratedTokens`. A timestamp is a
date and time, or a number of seconds.
"""

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from qllm.client.bench.errors import BadTrace
from qllm.client.files import why_unread

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of a trace.

    Attributes:
        at_s: Seconds after the trace's first request.
        num_prompt_tokens: Tokens of its prompt, at least 1.
        num_output_tokens: Tokens generated for it, at least 1: a row that says 0 counts as 1.
    """

    at_s: float
    num_prompt_tokens: int
    num_output_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Some requests in the order of their times, and the length of one turn if they are repeated."""

    rows: tuple[TraceRow, ...]
    period_s: float

    @classmethod
    def of(cls, rows: Iterable[TraceRow]) -> "Trace":
        """Orders the rows; a repetition begins one mean pause after the last of them."""
        ordered = tuple(sorted(rows, key=lambda row: row.at_s))
        span_s = ordered[-1].at_s if ordered else 0.0
        return cls(ordered, span_s + span_s / max(len(ordered) - 1, 1))


def read_trace(path: Path) -> Trace:
    """Reads a trace file.

    Raises:
        BadTrace: It cannot be opened, lacks a column, has no rows, or a row cannot be understood.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            timed = list(_timed_rows(path, file))
    except (OSError, UnicodeDecodeError) as error:
        raise BadTrace(f"{path}: {why_unread(error)}") from error
    except csv.Error as error:
        raise BadTrace(f"{path}: {error}") from error
    if not timed:
        raise BadTrace(f"{path}: has no rows below its header")
    first_s = min(at_s for at_s, _, _ in timed)
    return Trace.of(TraceRow(at_s - first_s, prompt, max(output, 1)) for at_s, prompt, output in timed)


def _timed_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[float, int, int]]:
    reader = csv.DictReader(lines)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise BadTrace(f"{path}:1: lacks the column {missing[0]}; a trace has the columns {','.join(COLUMNS)}")
    for row in reader:
        where = f"{path}:{reader.line_num}"
        at_s = _seconds(where, row["TIMESTAMP"])
        yield at_s, _count(where, row, "ContextTokens", at_least=1), _count(where, row, "GeneratedTokens", at_least=0)


def _seconds(where: str, text: str | None) -> float:
    """Returns a point in time as seconds since some fixed one."""
    try:
        seconds = float(text or "")
    except ValueError:
        pass
    else:
        if math.isfinite(seconds):
            return seconds
    try:
        moment = datetime.fromisoformat((text or "").strip())
    except ValueError:
        allowed = "a date and time such as 2023-11-16 18:17:03.979960, or seconds"
        raise BadTrace(f"{where}: TIMESTAMP is {text!r}; allowed is {allowed}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _count(where: str, row: dict[str, str | None], column: str, *, at_least: int) -> int:
    text = row[column]
    try:
        count = int(text or "")
    except ValueError:
        count = at_least - 1
    if count < at_least:
        raise BadTrace(f"{where}: {column} is {text!r}; allowed is a whole number of at least {at_least}")
    return count
