"""What all commands share: the address, one event loop, and how failures reach the user (one line, an exit code)."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from client.async_client import DEFAULT_ADDRESS
from client.errors import Overloaded, QllmError

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

Address = Annotated[str, typer.Option(envvar="QLLM_ADDRESS", metavar="HOST:PORT", help="Where the service listens.")]
address_default = DEFAULT_ADDRESS


def run(command: Coroutine[Any, Any, T]) -> T:
    """Runs a command's coroutine; ends the process with one line on stderr when it fails or is interrupted."""
    try:
        return asyncio.run(command)
    except QllmError as error:
        complain(f"{error.status.name}: {error}{_advice(error)}")
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        complain("interrupted; the service was told to stop")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our stdout left. Nothing can be flushed there at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_FAILED) from None


def complain(message: str) -> None:
    """Writes one line to stderr."""
    typer.echo(f"qllm-client: {' '.join(message.split())}", err=True)


def _advice(error: QllmError) -> str:
    if isinstance(error, Overloaded) and error.retry_after_s is not None:
        return f" (try again in {error.retry_after_s:.1f} s)"
    return ""
