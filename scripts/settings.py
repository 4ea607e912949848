"""Writes docs/settings.md and docker-compose.yml's environment lists from the settings' fields, and checks them.

python -m scripts.settings generate | check
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING
from pathlib import Path

from qllm.options import as_text
from qllm.settings import PlacedSetting, settings_of

from gpu_worker.settings import WorkerConfig
from scheduler_svc.settings import Config

PAGE = Path("docs/settings.md")
COMPOSE = Path("docker-compose.yml")
PROCESSES = {"scheduler": Config, "worker": WorkerConfig}
# What a container does not take from its environment, and why.
NOT_OFFERED = {
    "QLLM_CONTROL_ENDPOINT": "fixed: a socket in a private volume",
    "QLLM_CURVE_SECRET_KEY": "a socket needs no keys",
    "QLLM_CURVE_WORKER_KEYS": "a socket needs no keys",
    "QLLM_CURVE_SERVER_KEY": "a socket needs no keys",
    "QLLM_GRPC_HOST": "fixed: what is published is the host's to say",
    "QLLM_GRPC_PORT": "fixed: what is published is the host's to say",
    "QLLM_HTTP_HOST": "fixed: what is published is the host's to say",
    "QLLM_HTTP_PORT": "fixed: what is published is the host's to say",
    "QLLM_METRICS_HOST": "fixed: what is published is the host's to say",
    "QLLM_METRICS_PORT": "fixed: what is published is the host's to say",
    "QLLM_INSECURE": "fixed: what is published is the host's to say",
    "QLLM_TLS_CERT": "TLS ends at a proxy in front; health checks inside speak plainly",
    "QLLM_TLS_KEY": "TLS ends at a proxy in front; health checks inside speak plainly",
    "QLLM_TLS_CLIENT_CA": "TLS ends at a proxy in front; health checks inside speak plainly",
    "QLLM_MODEL": "the worker's, with a default of its own",
    "QLLM_SPAWN_WORKER": "the worker has a container of its own",
    "QLLM_DEVICE": "fixed: each worker's image is for one device",
    "QLLM_SIMULATED": "for measuring QLLM itself",
    "QLLM_RECORD_COSTS": "the file system is read-only",
    "QLLM_STATE_DIR": "the file system is read-only",
    "QLLM_OFFLOAD_DIR": "the file system is read-only, and /tmp is in memory",
    "QLLM_OFFLOAD_DISK_GIB": "the file system is read-only, and /tmp is in memory",
    "QLLM_TRACE": "the file system is read-only",
    "QLLM_TRACE_MAX_MIB": "the file system is read-only",
    "QLLM_CONFIG": "a file would have to be mounted first",
}
_GENERAL = "Where settings come from"
_BLOCK = re.compile(
    r"(?P<begin>(?P<indent> +)# settings of the (?P<process>\w+), generated\n)(?P<lines>.*?)(?P<end> +# end\n)", re.S
)
_HEADER = """# Settings

Generated from the fields of the settings by `make settings`; `make check` proves that it is fresh.
`--help` says the same of each setting.

A setting has one name. `--grpc-port 50052` on the command line, `QLLM_GRPC_PORT=50052` in the
environment and `grpc-port = 50052` in the file of `--config` mean the same. The command line wins
over the environment, the environment over the file, and the file over the default. `--no-` before
a name switches off what is on or off: `--no-spawn-worker`, `QLLM_SPAWN_WORKER=false` and
`spawn-worker = false` mean the same.

`qllm-scheduler --check-config` and `qllm-worker --check-config` say for each setting what is in
force and where the value comes from, and start nothing. With `--spawn-worker` the scheduler's says
and checks what the worker would be told as well.

## The config file

```toml
# qllm.toml, for: qllm-scheduler --config qllm.toml --model DIR --spawn-worker
grpc-port = 50052         # above the tables: for the process that is given the file

[scheduler]               # for the scheduler alone
max-num-seqs = 64

[worker]                  # for the worker alone
dtype = "float32"
```

- Names are those of the options without `--`; `_` may stand for `-`.
- A process reads what stands above the tables, then its own table, which wins. It leaves the other
  process's table aside.
- A worker that the scheduler starts reads the table `[worker]` of the scheduler's file, and nothing
  else of it. Its options stand after `--` on the scheduler's command line, and win.
- A name that is unknown, or a value of a wrong type or out of range, is refused: one line names the
  file, the setting and what is allowed, and the exit code is 2.
"""


def page() -> str:
    """Returns docs/settings.md."""
    parts = [_HEADER]
    for process, kind in PROCESSES.items():
        parts.append(f"## qllm-{process}\n")
        by_subject: dict[str, list[PlacedSetting]] = {}
        for one in _public(kind):
            by_subject.setdefault(one.setting.panel or _GENERAL, []).append(one)
        for subject, settings in by_subject.items():
            parts.append(f"### {subject} ({process})\n")
            parts.append("\n".join(_table(settings)) + "\n")
    return "\n".join(parts)


def compose(text: str) -> str:
    """Returns docker-compose.yml with its generated lists made anew."""

    def block(match: re.Match[str]) -> str:
        names = offered(match["process"])
        return match["begin"] + "".join(f"{match['indent']}{name}:\n" for name in names) + match["end"]

    return _BLOCK.sub(block, text)


def offered(process: str) -> list[str]:
    """Returns the environment variables that a container passes on to its process."""
    return [one.environment for one in _public(PROCESSES[process]) if one.environment not in NOT_OFFERED]


def problems() -> Iterator[str]:
    """Yields what does not agree with the fields."""
    if not PAGE.exists() or PAGE.read_text() != page():
        yield f"{PAGE}: stale; run `make settings`"
    text = COMPOSE.read_text()
    if compose(text) != text:
        yield f"{COMPOSE}: stale; run `make settings`"
    if [match["process"] for match in _BLOCK.finditer(text)] != ["worker", "scheduler"]:
        yield f"{COMPOSE}: its two generated lists are not where they were"
    known = {one.environment for kind in PROCESSES.values() for one in settings_of(kind)}
    yield from (f"scripts.settings: {name} is no setting any more" for name in sorted(NOT_OFFERED.keys() - known))


def _public(kind: type) -> list[PlacedSetting]:
    return [one for one in settings_of(kind) if not one.setting.hidden and not one.setting.is_argument]


def _table(settings: Iterable[PlacedSetting]) -> Iterator[str]:
    yield "| option | environment | default | allowed | what it does |"
    yield "|---|---|---|---|---|"
    for one in settings:
        cells = (f"`{one.option}`", f"`{one.environment}`", _default(one), _allowed(one), one.help)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(one: PlacedSetting) -> str:
    if one.default is MISSING:
        return "has to be given"
    return " ".join(filter(None, (as_text(one, one.given(one.default)), one.unit if one.default is not None else "")))


def _allowed(one: PlacedSetting) -> str:
    if one.choices:
        return ", ".join(one.choices)
    if one.setting.allowed is not None:
        return one.setting.allowed
    words = {bool: "on or off", int: "whole number", float: "number", Path: "path"}.get(one.type, "text")
    return " ".join(filter(None, (one.range or words, one.unit)))


def main() -> int:
    """Generates or checks; returns the exit code."""
    match sys.argv[1:]:
        case ["generate"]:
            PAGE.write_text(page())
            COMPOSE.write_text(compose(COMPOSE.read_text()))
            return 0
        case ["check"]:
            found = list(problems())
            print("\n".join(found) if found else f"{PAGE} and {COMPOSE} agree with the settings' fields")
            return 1 if found else 0
        case _:
            print("usage: python -m scripts.settings generate | check", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
