"""`qllm-client health`: an exit code for scripts and container health checks."""

import typer
from qllm.client.cli.session import EXIT_FAILED, Address, address_default, connect, run


def health(address: Address = address_default) -> None:
    """Says whether the service can take requests: exit code 0 if it serves, 1 if not.

    [bold]Example[/bold]

      until qllm-client health; do sleep 1; done
    """
    is_serving = run(_health(address))
    typer.echo("SERVING" if is_serving else "NOT_SERVING")
    if not is_serving:
        raise typer.Exit(EXIT_FAILED)


async def _health(address: str) -> bool:
    async with connect(address) as client:
        return await client.health()
