"""`qllm-client batch`: durable jobs of many requests, from a file and into one."""

import typer
from qllm.client.cli.access_options import with_access
from qllm.client.cli.batch.results import results
from qllm.client.cli.batch.show import cancel, get, list_batches
from qllm.client.cli.batch.submit import submit
from qllm.client.cli.session import Address, address_default

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
@with_access
def main(address: Address = address_default) -> None:
    """Runs files of requests as durable jobs.

    A job is best-effort work: it fills what latency-sensitive requests leave of the machine. Once it is accepted it is
    on the service's disk and runs to its end, whatever is restarted meanwhile. The service must have been started with
    --state-dir.

    [bold]Examples[/bold]

      qllm-client batch submit requests.jsonl --wait

      qllm-client batch results batch_... -o answers.jsonl

      qllm-client batch list
    """


app.command()(with_access(submit))
app.command(name="list")(with_access(list_batches))
app.command()(with_access(get))
app.command()(with_access(results))
app.command()(with_access(cancel))

__all__ = ["app"]
