"""`qllm-client batch list`, `get` and `cancel`: how jobs stand."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from qllm.client.batches import Batch
from qllm.client.cli.batch.tables import as_json, in_words, job_table, jobs_table
from qllm.client.cli.session import Address, address_default, connect, run
from rich.console import Console

BatchId = Annotated[str, typer.Argument(metavar="ID", help="The job, as submit and list print it.")]
Json = Annotated[bool, typer.Option("--json", help="Prints JSON: one line.")]
Limit = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Shows at most so many jobs.")]

_MAX_PAGE_SIZE = 100


def list_batches(limit: Limit = 20, json_lines: Json = False, address: Address = address_default) -> None:
    """Lists your jobs, newest first."""
    batches = run(_list(address, limit))
    if json_lines:
        typer.echo(json.dumps([asdict(batch) for batch in batches]))
    else:
        Console().print(jobs_table(batches) if batches else "no jobs")


def get(batch_id: BatchId, json_line: Json = False, address: Address = address_default) -> None:
    """Shows how a job stands."""
    batch = run(_get(address, batch_id))
    if json_line:
        typer.echo(as_json(batch))
    else:
        Console().print(job_table(batch))


def cancel(batch_id: BatchId, json_line: Json = False, address: Address = address_default) -> None:
    """Cancels a job. Requests that have no answer yet are not run; answers that are there can still be read."""
    batch = run(_cancel(address, batch_id))
    typer.echo(as_json(batch) if json_line else in_words(batch))


async def _list(address: str, limit: int) -> list[Batch]:
    batches: list[Batch] = []
    token = ""
    async with connect(address) as client:
        while len(batches) < limit:
            size = min(limit - len(batches), _MAX_PAGE_SIZE)
            page = await client.list_batches(page_size=size, page_token=token)
            batches += page.batches
            token = page.next_page_token
            if not token:
                break
    return batches


async def _get(address: str, batch_id: str) -> Batch:
    async with connect(address) as client:
        return await client.get_batch(batch_id)


async def _cancel(address: str, batch_id: str) -> Batch:
    async with connect(address) as client:
        return await client.cancel_batch(batch_id)
