"""`qllm-client batch submit`: a file of requests becomes a job."""

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from qllm.client.async_client import AsyncClient
from qllm.client.batches import Batch, BatchItem, BatchStatus
from qllm.client.cli.batch.lines import LinesRefused, read_file, read_items
from qllm.client.cli.batch.tables import JobBar, as_json, in_words
from qllm.client.cli.session import EXIT_FAILED, Address, address_default, complain, connect, run
from qllm.options import with_settings
from qllm.settings import Setting
from rich.console import Console

_S_PER_HOUR = 3600.0
# Clocks of two machines may differ by so much.
_CLOCK_TOLERANCE_S = 60.0


@dataclass(frozen=True, slots=True)
class SubmitSettings:
    """What is said of the job, and whether it is waited for."""

    wait: Annotated[
        bool,
        Setting(),
        "Waits until the job has ended and shows how far it is. The exit code is then 1 unless every request has an "
        "answer. Ctrl-C ends the waiting, not the job.",
    ] = False
    metadata: Annotated[
        list[str] | None,
        Setting(metavar="KEY=VALUE"),
        "Keeps words of your own with the job. It may be given several times.",
    ] = None
    window_h: Annotated[
        float | None,
        Setting(option="window-hours", metavar="HOURS", unset="24"),
        "Sets after how many hours what has not ended expires.",
    ] = None
    idempotency_key: Annotated[
        str | None,
        Setting(option="key", metavar="KEY", unset="made of what is submitted"),
        "Sets the key that makes a repeated submit the same job. By default the same file, metadata and window are the "
        "same job, so that a submit whose outcome is not known can be repeated.",
    ] = None
    again: Annotated[bool, Setting(), "Makes a new job even if the same was submitted before."] = False
    as_json: Annotated[bool, Setting(option="json"), "Prints the job as one line of JSON, and nothing else."] = False


@with_settings
def submit(
    settings: SubmitSettings,
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="The requests. With -, standard input is read.")],
    address: Address = address_default,
) -> None:
    """Submits a file of requests as one durable job, and prints the job's id.

    Each line of the file is a request, in OpenAI's batch form or in a short one:

      {"custom_id": "a", "prompt": "def fibonacci(n):", "max_tokens": 64, "temperature": 0}

      {"custom_id": "b", "messages": [{"role": "user", "content": "What does zip do?"}]}

    Fields have the names of OpenAI's API, what is left out is as in qllm-client generate, and a custom_id that is left
    out is line-1, line-2 and so on. A file with a bad line is refused by the line's number, and nothing is submitted.
    """
    try:
        content = read_file(file)
        items = read_items(content)
    except LinesRefused as refusal:
        raise typer.BadParameter(f"{file}: {refusal}", param_hint="FILE.jsonl") from None
    metadata = _pairs(settings.metadata or ())
    key = _key(settings, content, metadata)
    interrupted = _Interrupted()
    run(_submit(address, items, settings, metadata, key, interrupted), when_interrupted=interrupted.words)


class _Interrupted:
    """What is said to who ends the command before the job has ended."""

    def __init__(self) -> None:
        self.batch_id: str | None = None

    def words(self) -> str:
        """Returns what became of the job."""
        if self.batch_id is None:
            return "interrupted while the job was submitted; run the same command again to be sure that it is accepted"
        return f"the job goes on; see it with: qllm-client batch get {self.batch_id}"


async def _submit(
    address: str,
    items: Sequence[BatchItem],
    settings: SubmitSettings,
    metadata: dict[str, str],
    key: str,
    interrupted: _Interrupted,
) -> None:
    window_s = None if settings.window_h is None else settings.window_h * _S_PER_HOUR
    begun_s = time.time()
    async with connect(address) as client:
        batch = await client.create_batch(items, idempotency_key=key, metadata=metadata, completion_window_s=window_s)
        interrupted.batch_id = batch.batch_id
        if not settings.as_json:
            typer.echo(batch.batch_id)
            is_old = batch.status.is_terminal or batch.created_at_s < begun_s - _CLOCK_TOLERANCE_S
            _say_accepted(batch, is_old=is_old, waits=settings.wait)
        if settings.wait:
            batch = await _wait(client, batch)
    if settings.as_json:
        typer.echo(as_json(batch))
    if settings.wait:
        _conclude(batch, is_quiet=settings.as_json)


def _say_accepted(batch: Batch, *, is_old: bool, waits: bool) -> None:
    if is_old:
        typer.echo(f"submitted before, this is that job ({in_words(batch)}); --again makes a new one", err=True)
    elif not waits:
        typer.echo(f"{batch.num_items} items; read them with: qllm-client batch results {batch.batch_id}", err=True)


async def _wait(client: AsyncClient, batch: Batch) -> Batch:
    with JobBar(Console(stderr=True)) as bar:
        async for now in client.watch_batch(batch.batch_id):
            batch = now
            bar.update(batch)
    return batch


def _conclude(batch: Batch, *, is_quiet: bool) -> None:
    """Says how the job ended; ends with exit code 1 unless every item has an answer."""
    if not is_quiet:
        typer.echo(in_words(batch), err=True)
    if batch.status is not BatchStatus.COMPLETED or batch.num_failed:
        for error in batch.errors:
            complain(f"line {error.line}: {error.code}: {error.message}")
        raise typer.Exit(EXIT_FAILED)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    wrong = next((key for key, equals, _ in pairs if not equals or not key), None)
    if wrong is not None:
        raise typer.BadParameter(f"got {wrong!r}, allowed is KEY=VALUE", param_hint="--metadata")
    return {key: value for key, _, value in pairs}


def _key(settings: SubmitSettings, content: bytes, metadata: dict[str, str]) -> str:
    """Returns the key: what is submitted twice unchanged is one job, unless it is asked for again."""
    if settings.idempotency_key is not None:
        return settings.idempotency_key
    if settings.again:
        return uuid.uuid4().hex
    digest = hashlib.sha256(content)
    digest.update(json.dumps([metadata, settings.window_h], sort_keys=True).encode())
    return digest.hexdigest()
