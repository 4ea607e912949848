"""`qllm-client drain`: stops a service in good order."""

from typing import Annotated

import typer
from qllm.client.async_client import Draining
from qllm.client.cli.session import Address, address_default, connect, run

_MAX_GRACE_S = 3600


def drain(
    grace_s: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=_MAX_GRACE_S,
            help="Gives the requests that run so many seconds to end. Left out, they get what the service was started "
            "with.",
            show_default=False,
        ),
    ] = None,
    address: Address = address_default,
) -> None:
    """Tells the service to stop: it takes no new requests, lets those that run end, and ends itself.

    Exit code 0 once the service has begun; `health` says NOT_SERVING from then on, and that nobody answers in the end.

    [bold]Example[/bold]

      qllm-client drain --grace-s 30
    """
    draining = run(_drain(address, grace_s))
    num = draining.num_requests
    typer.echo(
        f"stopping: {num} request{'' if num == 1 else 's'} running, within {draining.grace_ms / 1e3:g} s at most"
    )


async def _drain(address: str, grace_s: float | None) -> Draining:
    async with connect(address) as client:
        return await client.drain(grace_s)
