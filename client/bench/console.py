"""How bench commands speak to the user when they fail: one message on stderr, and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from qllm.client.bench.errors import BenchError

EXIT_FAILED = 1


def complain(message: str) -> None:
    """Writes to stderr."""
    typer.echo(f"qllm-client: {message}", err=True)


@contextmanager
def complaining() -> Iterator[None]:
    """Ends the process with a message when the block fails in a way that is the user's to know."""
    try:
        yield
    except BenchError as error:
        complain(str(error))
        raise typer.Exit(EXIT_FAILED) from None
