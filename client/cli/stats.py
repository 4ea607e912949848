"""`qllm-client stats`: what the service is and what it does now, as tables or as JSON."""

import asyncio
import json
from typing import Annotated, Any

import typer
from google.protobuf.message import Message
from qllm.client.async_client import AsyncClient, Loads, ServerInfo
from qllm.client.cli.memory_tables import moves_table, owners_table
from qllm.client.cli.numbers import share_of, shown
from qllm.client.cli.session import EXIT_FAILED, Address, address_default, complain, connect, run
from qllm.v1 import admin_pb2
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Prints JSON, one line each time.")]
Watch = Annotated[
    float | None, typer.Option(min=0.1, metavar="SECONDS", help="Prints again after so many seconds, until Ctrl-C.")
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Checks whether the scheduler and the worker agree on who holds the cache, and shows that alone. "
        "No work is scheduled meanwhile: for 5 to 10 ms for each 10,000 blocks of the cache. "
        "The exit code is 1 if they do not, or if the service makes no checks.",
    ),
]

_CLASS_ROWS = (
    "queued_prefill",
    "queued_decode",
    "running",
    "offloaded",
    "num_finished",
    "num_prompt_tokens",
    "num_generated_tokens",
)


def stats(as_json: Json = False, watch: Watch = None, check: Check = False, address: Address = address_default) -> None:
    """Shows the model, the policy, the queues, who holds the cache, and the counters.

    Names are those of protos/qllm/v1/admin.proto, which explains each; the tables show its nanoseconds as seconds.
    Counters count from when the worker connected.

    [bold]Examples[/bold]

      qllm-client stats --watch 1

      qllm-client stats --check

      qllm-client stats --json | jq .loads.num_preemptions_at_expert
    """
    if check and watch is not None:
        raise typer.BadParameter("it is done once: leave --watch out", param_hint="--check")
    run(_check(address, as_json=as_json) if check else _stats(address, watch, as_json=as_json))


async def _check(address: str, *, as_json: bool) -> None:
    """Prints whether the books of memory agree, and ends with exit code 1 if they do not or are not checked."""
    async with connect(address) as client:
        loads = await client.loads(check=True)
        if as_json:
            typer.echo(json.dumps({"server": _as_dict(await client.server_info()), "loads": _as_dict(loads)}))
    if not loads.HasField("check"):
        complain("this service makes no checks")
        raise typer.Exit(EXIT_FAILED)
    check = loads.check
    if not as_json:
        agreed = f"books agree: {check.num_held_blocks:,} blocks held by {check.num_sequences:,} sequences"
        typer.echo("\n".join(check.problems) or agreed)
    if check.problems:
        raise typer.Exit(EXIT_FAILED)


async def _stats(address: str, watch_s: float | None, *, as_json: bool) -> None:
    console = Console()
    async with connect(address) as client:
        if as_json or watch_s is None or not console.is_terminal:
            await _print_each(client, console, watch_s, as_json=as_json)
        else:
            await _refresh(client, console, watch_s)


async def _print_each(client: AsyncClient, console: Console, watch_s: float | None, *, as_json: bool) -> None:
    while True:
        info, loads = await client.server_info(), await client.loads()
        if as_json:
            typer.echo(json.dumps({"server": _as_dict(info), "loads": _as_dict(loads)}))
        else:
            console.print(_tables(info, loads))
        if watch_s is None:
            return
        await asyncio.sleep(watch_s)


async def _refresh(client: AsyncClient, console: Console, watch_s: float) -> None:
    info = await client.server_info()
    with Live(_tables(info, await client.loads()), console=console) as live:
        while True:
            await asyncio.sleep(watch_s)
            info = await client.server_info()
            live.update(_tables(info, await client.loads()), refresh=True)


def _tables(info: ServerInfo, loads: Loads) -> Group:
    return Group(
        _server_table(info),
        _class_table(loads),
        _promise_table(loads),
        owners_table(loads.memory),
        moves_table(loads, info.model.block_size),
        _counter_table(loads),
    )


def _server_table(info: ServerInfo) -> Table:
    table = Table(title="Service", show_header=False)
    for name, value in _as_dict(info).items():
        if name == "worker_epoch":
            table.add_row(name, f"{value:x}")
        elif name != "model":
            table.add_row(name, shown(value))
    if info.HasField("model"):
        for name, value in _as_dict(info.model).items():
            table.add_row(f"model {name}", shown(value))
    return table


def _class_table(loads: Loads) -> Table:
    table = Table("", "latency-sensitive", "best-effort", title="Classes")
    for name in _CLASS_ROWS:
        table.add_row(name, shown(getattr(loads.latency_sensitive, name)), shown(getattr(loads.best_effort, name)))
    table.add_row("predicted_wait_ms", *(_predicted_wait(one) for one in (loads.latency_sensitive, loads.best_effort)))
    table.add_row("busy_s", f"{loads.latency_sensitive.busy_ns / 1e9:.1f}", f"{loads.best_effort.busy_ns / 1e9:.1f}")
    return table


def _predicted_wait(load: admin_pb2.ClassLoad) -> str:
    return shown(load.predicted_wait_ms) if load.HasField("predicted_wait_ms") else "not known"


def _promise_table(loads: Loads) -> Table:
    """Says to how many requests what was promised was kept."""
    load = loads.latency_sensitive
    table = Table(title="Promise to latency-sensitive requests", show_header=False)
    table.add_row("first token in time", share_of(load.num_first_tokens_in_time, load.num_first_tokens))
    table.add_row("time per token kept", share_of(load.num_paced_in_time, load.num_paced))
    table.add_row("both, of whole answers", share_of(load.num_attained, load.num_judged))
    return table


def _counter_table(loads: Loads) -> Table:
    table = Table(title="Worker", show_header=False)
    for name, value in _as_dict(loads).items():
        if name.endswith("_ns"):
            table.add_row(f"{name.removesuffix('_ns')}_s", f"{value / 1e9:.3f}")
        elif isinstance(value, int | float):
            table.add_row(name, shown(value))
    return table


def _as_dict(message: Message) -> dict[str, Any]:
    """Returns all fields by name, with numbers as numbers (protobuf's own JSON makes strings of 64-bit ones).

    What is absent is None.
    """
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            fields[field.name] = list(value)
        elif field.message_type is not None:
            fields[field.name] = _as_dict(value) if message.HasField(field.name) else None
        elif field.enum_type is not None:
            fields[field.name] = field.enum_type.values_by_number[value].name
        else:
            is_absent = field.has_presence and not message.HasField(field.name)
            fields[field.name] = None if is_absent else value
    return fields
