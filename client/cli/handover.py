"""`qllm-client handover`: lets a worker that stands by serve."""

import typer
from qllm.client.cli.session import Address, address_default, connect, run


def handover(address: Address = address_default) -> None:
    """Lets a worker that stands by serve in place of the one that does, which ends.

    Requests go on where they were. A worker stands by if the service was started with --standby 1, or if a second
    qllm-worker was started at its control endpoint, of a new version for example.

    [bold]Example[/bold]

      qllm-client handover
    """
    run(_handover(address))
    typer.echo("the worker that stands by takes over")


async def _handover(address: str) -> None:
    async with connect(address) as client:
        await client.hand_over()
