"""The `qllm-client` command."""

import typer
from qllm.client.bench.cli import app as bench_app
from qllm.client.cli.access_options import with_access
from qllm.client.cli.batch import app as batch_app
from qllm.client.cli.chat import EXAMPLES as CHAT_EXAMPLES
from qllm.client.cli.chat import chat
from qllm.client.cli.drain import drain
from qllm.client.cli.generate import EXAMPLES, generate
from qllm.client.cli.handover import handover
from qllm.client.cli.health import health
from qllm.client.cli.session import Address, address_default, is_on_command_line
from qllm.client.cli.stats import stats

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(no_args_is_help=True, epilog="Start one with: make serve, or qllm-scheduler --model DIR --spawn-worker")
@with_access
def main(context: typer.Context, address: Address = address_default) -> None:
    """Talks to a QLLM service.

    It is at --address, or where the environment's QLLM_ADDRESS says, or at 127.0.0.1:50051. --address and the options
    of access may stand before or after the command's name.

    Exit codes: 0 done; 1 the service said no, or nobody answers; 2 wrong usage; 130 interrupted.
    """
    if context.invoked_subcommand == "bench" and is_on_command_line(context, "address"):
        raise typer.BadParameter(
            "bench measures the server that its own --grpc or --http names", param_hint="--address"
        )


app.command(epilog=EXAMPLES)(with_access(generate))
app.command(epilog=CHAT_EXAMPLES)(with_access(chat))
app.command()(with_access(health))
app.command()(with_access(stats))
app.command()(with_access(drain))
app.command()(with_access(handover))
app.add_typer(batch_app, name="batch")
app.add_typer(bench_app, name="bench")
