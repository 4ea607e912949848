"""The scheduler process, `qllm-scheduler`: reads its settings and serves until told to stop.

Exit codes: 0 after SIGTERM, SIGINT or SIGHUP, which give running requests a grace that a second signal ends; 1 when it
cannot go on; 2 when it refuses what it was told.
"""

import asyncio
import logging
import sys
from functools import partial

import typer
from qllm.command_line import run_command
from qllm.logs import set_up_logging
from qllm.options import with_settings
from qllm.reporting import report_without_failing
from qllm.settings import SettingRefused

from scheduler_svc.channel.endpoint import EndpointRefused
from scheduler_svc.security.new_key import new_key
from scheduler_svc.service import Service
from scheduler_svc.settings import Config
from scheduler_svc.supervisor import WorkerRefused, check_worker

_log = logging.getLogger("scheduler_svc")

_PRIVATE_SOCKET = "ipc://A-PRIVATE-SOCKET"  # stands for one that is not made before the service starts

_NEW_KEY = "new-key"

_HELP = """Serves a Mixture-of-Experts model to latency-sensitive requests and best-effort work that fills the machine.

Examples:

  qllm-scheduler --model demo/model --spawn-worker

  qllm-scheduler --model demo/model --spawn-worker --http-port 8000   (OpenAI's API; needs the package's extra "http")

  qllm-scheduler --model DIR --spawn-worker --policy fcfs -- --dtype float32 --threads 2

  qllm-scheduler --control-endpoint ipc:///run/qllm/control   (and elsewhere: qllm-worker --control-endpoint ...)

  qllm-scheduler --config qllm.toml --check-config   (says what is in force, and starts nothing)

  qllm-scheduler new-key TENANT >> keys.toml   (makes an API key, shows it, and prints its entry for --api-keys)

What stands after -- goes to the spawned worker; `qllm-worker --help` lists it. Every option may also come from the
environment, --grpc-port as QLLM_GRPC_PORT; the spawned worker reads the environment too. Every option may also come
from the file of --config. Options win over the environment, and the environment over the file.
"""


def _check_spawned_worker(config: Config) -> None:
    """Prints and checks what the worker that --spawn-worker starts would be told; ends as the worker's check does."""
    if not config.spawn_worker or config.model is None:
        return
    endpoint = config.control_endpoint or _PRIVATE_SOCKET
    checked = check_worker(endpoint, config.model, config.spawned_worker_options)
    if checked.stdout:
        typer.echo(f"\nsettings of the worker that --spawn-worker starts\n{checked.stdout}", nl=False)
    typer.echo(checked.stderr, err=True, nl=False)
    if checked.returncode:
        raise typer.Exit(checked.returncode)


@partial(with_settings, also_check=_check_spawned_worker)
def serve(config: Config) -> None:
    """Serves until told to stop; exits with a code that says how it ended."""
    set_up_logging(config.log_level)
    try:
        asyncio.run(_serve(config))
    except (EndpointRefused, WorkerRefused) as refusal:
        raise SettingRefused(str(refusal)) from None
    except SettingRefused:
        raise
    except Exception:
        _log.critical("service_died", exc_info=True)
        sys.exit(1)


async def _serve(config: Config) -> None:
    await Service(config).run()


def main() -> None:
    """Entry point of `qllm-scheduler`, and of `qllm-scheduler new-key`, which serves nothing."""
    report_without_failing()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if sys.argv[1:2] == [_NEW_KEY]:
        del sys.argv[1]
        app.command()(new_key)
        run_command(app, f"qllm-scheduler {_NEW_KEY}")
    else:
        app.command(help=_HELP)(serve)
        run_command(app, "qllm-scheduler")


if __name__ == "__main__":
    main()
