"""Result files: everything that a report needs, as JSON. Owns their schema; knows nothing of loads and pictures.

Requests are kept one a row, about 60 bytes each, so that ten thousand of them stay well under a megabyte.
"""

import json
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from qllm.client.bench.errors import BadFile
from qllm.client.bench.load.measurement import Measurement
from qllm.client.bench.load.record import RequestRow
from qllm.client.bench.load.target import TargetFacts
from qllm.client.bench.results.summary import Summary
from qllm.client.files import FileRefused, read_text
from qllm.client.messages import RequestClass

SCHEMA = "qllm-bench/1"
ABLATION_SCHEMA = "qllm-bench-ablation/1"
_COLUMNS = tuple(field.name for field in fields(RequestRow))


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a result came to be.

    Attributes:
        command: The command line.
        started_at: Date and time, with zone.
        config: What was asked for, by name.
        environment: The machine and the program.
    """

    command: tuple[str, ...]
    started_at: str
    config: Mapping[str, object]
    environment: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Result:
    """One result.

    Attributes:
        label: What it is called in comparisons.
        target: The server.
        is_interrupted: Whether the user ended it early.
        summary: Its figures.
        bin_s: Seconds of a bin of `bins`.
        bins: Tokens that came in each stretch of the window, by class.
        idle: Requests of the idle baseline.
        rows: Requests of the window.
        counters: By how much the server's own counters grew within the window.
        messages: One message for each kind of failure.
    """

    label: str
    provenance: Provenance
    target: TargetFacts
    is_interrupted: bool
    summary: Summary
    bin_s: float
    bins: Mapping[RequestClass, Sequence[int]]
    idle: tuple[RequestRow, ...]
    rows: tuple[RequestRow, ...]
    counters: Mapping[str, int]
    messages: Mapping[str, str]

    @classmethod
    def of(
        cls,
        measurement: Measurement,
        summary: Summary,
        *,
        label: str,
        provenance: Provenance,
        target: TargetFacts,
        is_interrupted: bool,
    ) -> Self:
        """Puts a measurement and its figures together."""
        return cls(
            label=label,
            provenance=provenance,
            target=target,
            is_interrupted=is_interrupted,
            summary=summary,
            bin_s=measurement.throughput.bin_s,
            bins=measurement.throughput.bins,
            idle=measurement.idle,
            rows=measurement.rows,
            counters=measurement.counters,
            messages=measurement.messages,
        )

    def of_class(self, request_class: RequestClass) -> list[RequestRow]:
        """Returns the window's requests of a class."""
        return [row for row in self.rows if row.request_class is request_class]

    def to_json(self) -> dict[str, Any]:
        """Returns what a result file holds."""
        values = {"schema": SCHEMA, **asdict(self)}
        return values | {"idle": _to_columns(self.idle), "rows": _to_columns(self.rows)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Reads it back.

        Raises:
            LookupError, TypeError, ValueError: Something is missing, or is not what it should be.
        """
        tables: dict[str, Any] = {name: _from_columns(values[name]) for name in ("idle", "rows")}
        hints = {name: hint for name, hint in get_type_hints(cls).items() if name not in tables}
        return cls(**tables, **{name: build(hint, values[name]) for name, hint in hints.items()})


def read_results(path: Path) -> list[Result]:
    """Reads a result file: one result, or all those of an ablation.

    Raises:
        BadFile: It is not there, or not a result file of a schema known here.
    """
    values = read_values(path, (SCHEMA, ABLATION_SCHEMA))
    with complete(path):
        return [
            Result.from_json(one) for one in (values["recordings"] if values["schema"] == ABLATION_SCHEMA else [values])
        ]


def read_values(path: Path, schemas: Collection[str]) -> dict[str, Any]:
    """Reads what a result file holds, of one of these schemas.

    Raises:
        BadFile: It is not there, or none of theirs.
    """
    try:
        values = json.loads(read_text(path))
    except FileRefused as refusal:
        raise BadFile(str(refusal)) from refusal
    except ValueError as error:
        raise BadFile(f"{path}: it is no JSON: {error}") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema not in schemas:
        allowed = " or ".join(repr(one) for one in schemas)
        raise BadFile(f"{path}: its schema is {schema!r}; allowed is {allowed}")
    return dict(values)


@contextmanager
def complete(path: Path) -> Iterator[None]:
    """Raises BadFile where the block finds that something in the file is missing, or is not what it should be."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise BadFile(f"{path}: it is no complete result: {type(error).__name__}: {error}") from error


def dump(values: Mapping[str, Any]) -> str:
    """Returns JSON with one line for each of the outer names, and no needless spaces."""
    lines = (f"{json.dumps(name)}:{json.dumps(value, separators=(',', ':'))}" for name, value in values.items())
    return "{" + ",\n".join(lines) + "}\n"


def _to_columns(rows: Sequence[RequestRow]) -> dict[str, Any]:
    return {"columns": _COLUMNS, "rows": [[getattr(row, name) for name in _COLUMNS] for row in rows]}


def _from_columns(values: Mapping[str, Any]) -> tuple[RequestRow, ...]:
    named = (dict(zip(values["columns"], row, strict=True)) for row in values["rows"])
    return tuple(build(RequestRow, one) for one in named)


def build(hint: Any, value: Any) -> Any:
    """Makes a value of the annotated type out of what JSON gave; TypeError if that is of another type."""
    if get_origin(hint) in (Union, types.UnionType):
        (present,) = [one for one in get_args(hint) if one is not type(None)]
        return None if value is None else build(present, value)
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{name: build(hints[name], one) for name, one in value.items()})  # type: ignore[operator]
    if get_origin(hint) is Mapping:
        key_hint, value_hint = get_args(hint)
        return {build(key_hint, key): build(value_hint, one) for key, one in value.items()}
    if get_origin(hint) in (tuple, Sequence):
        return tuple(build(get_args(hint)[0], one) for one in value)
    if hint is RequestClass:
        return RequestClass(value)
    if not isinstance(value, (int, float) if hint is float else hint):
        raise TypeError(f"{value!r} stands where {hint.__name__} is expected")
    return value
