"""The `qllm-client` command. Exit codes: 0 done, 1 the service said no, 2 wrong usage, 130 interrupted."""

import typer

from client.bench.cli import app as bench_app
from client.cli.generate import EXAMPLES, generate
from client.cli.health import health
from client.cli.stats import stats

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Talks to a QLLM service.\n\n"
        "The service is at --address, or where the environment's QLLM_ADDRESS says, or at 127.0.0.1:50051."
    ),
    epilog="Start one with: make serve, or qllm-scheduler --model DIR --spawn-worker",
)
app.command(epilog=EXAMPLES)(generate)
app.command()(health)
app.command()(stats)
app.add_typer(bench_app, name="bench")

__all__ = ["app"]
