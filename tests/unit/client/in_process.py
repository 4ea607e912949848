"""Runs `qllm-client` in this process: a new one would import everything anew, which takes longer than the command."""

import asyncio
from dataclasses import dataclass

from qllm.client.cli.app import app
from typer.testing import CliRunner


@dataclass
class Finished:
    code: int
    out: str
    err: str


async def run_here(*arguments: str, stdin: bytes = b"", **environment: str) -> Finished:
    """Runs a command that needs no signals, on a thread of its own; `environment` goes over this process's."""
    result = await asyncio.to_thread(
        CliRunner().invoke, app, arguments, input=stdin, env=environment, prog_name="qllm-client"
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Finished(result.exit_code, result.stdout, result.stderr)
