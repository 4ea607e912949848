"""What all commands share: the address, one event loop, and how failures reach the user (one line, an exit code)."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer
from qllm.addresses import AddressRefused, read_target
from qllm.client.access import AccessRefused
from qllm.client.async_client import DEFAULT_ADDRESS, AsyncClient
from qllm.client.cli.access_options import chosen_access
from qllm.client.errors import QllmError
from qllm.client.hints import told
from qllm.client.sync_client import Client

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130


def _chosen_address(context: typer.Context, given: str) -> str:
    """Returns the address: the last one on the command line, before or after commands' names; or the environment's."""
    if not is_on_command_line(context, "address"):
        before = (one.params["address"] for one in _parents(context) if is_on_command_line(one, "address"))
        given = next(before, given)
    try:
        read_target(given)
    except AddressRefused as refusal:
        raise typer.BadParameter(str(refusal), context, param_hint="--address") from None
    return given


def _parents(context: Any) -> Iterator[Any]:
    """Yields the contexts of what stands before a command's name, nearest first."""
    while context.parent is not None:
        context = context.parent
        yield context


def is_on_command_line(context: typer.Context, name: str) -> bool:
    """Tells an option that was given from one that has its default or comes from the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


Address = Annotated[
    str,
    typer.Option(
        envvar="QLLM_ADDRESS",
        metavar="HOST:PORT",
        help="Sets where the service listens for gRPC; it may also be [IPv6]:PORT or unix:PATH.",
        callback=_chosen_address,
    ),
]
address_default = DEFAULT_ADDRESS


def connect(address: str) -> AsyncClient:
    """Returns a client of the service, with what the command was given to be let in; call it on the event loop."""
    return _let_in(AsyncClient, address)


def connect_blocking(address: str) -> Client:
    """Returns a client of the service for a command that needs no event loop."""
    return _let_in(Client, address)


def _let_in(kind: Callable[..., T], address: str) -> T:
    try:
        return kind(address, **chosen_access())
    except AccessRefused as refusal:
        complain(str(refusal))
        raise typer.Exit(EXIT_REFUSED) from None


def run(
    command: Coroutine[Any, Any, T],
    *,
    when_interrupted: str | Callable[[], str] = "interrupted",
    tell: Callable[[QllmError], str] = told,
) -> T:
    """Runs a command's coroutine; ends the process with one line on stderr when it fails or is interrupted."""
    with reporting(when_interrupted, tell):
        return asyncio.run(command)


@contextmanager
def reporting(
    when_interrupted: str | Callable[[], str] = "interrupted", tell: Callable[[QllmError], str] = told
) -> Iterator[None]:
    """Ends the process with one line on stderr when the block fails or is interrupted."""
    try:
        yield
    except QllmError as error:
        complain(tell(error))
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        complain(when_interrupted if isinstance(when_interrupted, str) else when_interrupted())
        raise typer.Exit(EXIT_INTERRUPTED) from None


def complain(message: str) -> None:
    """Writes one line to stderr."""
    typer.echo(f"qllm-client: {' '.join(message.split())}", err=True)
