"""The scheduler process, `qllm-scheduler`: reads its settings and serves until told to stop.

Exit codes: 0 after SIGTERM, SIGINT or SIGHUP, which give running requests a grace that a second signal ends; 1 when it cannot
go on; 2 when it refuses what it was told.
"""

import asyncio
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from qllm.command_line import run_command
from qllm.reporting import report_without_failing

from scheduler_svc.channel.endpoint import EndpointRefused
from scheduler_svc.core.policies import POLICIES
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.service import Service
from scheduler_svc.serving.engine import EngineSettings
from scheduler_svc.settings import Config, ConfigRefused, curve_server, engine_settings, listening_host
from scheduler_svc.supervisor import WorkerRefused

_log = logging.getLogger("scheduler_svc")

PolicyName = StrEnum("PolicyName", {name: name for name in POLICIES})  # type: ignore[misc]
_DEFAULTS = EngineSettings()
_LIMITS = _DEFAULTS.limits
_DEFAULT_POLICY = PolicyName(_DEFAULTS.policy)
_HELP = """Serves a Mixture-of-Experts model to people who wait and to work that can wait.

Examples:

  qllm-scheduler --model demo/model --spawn-worker

  qllm-scheduler --model demo/model --spawn-worker --http-port 8000   (OpenAI's API; needs the extra "http" of the package)

  qllm-scheduler --model DIR --spawn-worker --policy fcfs -- --dtype float32 --threads 2

  qllm-scheduler --control-endpoint ipc:///run/qllm/control   (and elsewhere: qllm-worker --control-endpoint ... --model ...)

What stands after -- goes to the spawned worker; `qllm-worker --help` lists it. Every option may also come from the
environment, --grpc-port as QLLM_GRPC_PORT; the worker reads it too; options win.
"""


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def serve(
    worker_options: Annotated[list[str] | None, typer.Argument(help="After --: options of the spawned worker.")] = None,
    model: Annotated[str | None, typer.Option(envvar="QLLM_MODEL", help="Directory or hub id of the model.")] = None,
    spawn_worker: Annotated[
        bool, typer.Option("--spawn-worker", envvar="QLLM_SPAWN_WORKER", help="Start and supervise a local worker.")
    ] = False,
    control_endpoint: Annotated[
        str | None,
        typer.Option(envvar="QLLM_CONTROL_ENDPOINT", help="Where workers connect: ipc://PATH, or tcp:// with keys."),
    ] = None,
    grpc_host: Annotated[str, typer.Option(envvar="QLLM_GRPC_HOST", help="Address to serve gRPC on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(envvar="QLLM_GRPC_PORT", help="Port to serve gRPC on; 0: any.")] = 50051,
    http_host: Annotated[str, typer.Option(envvar="QLLM_HTTP_HOST", help="Address to serve HTTP on.")] = "127.0.0.1",
    http_port: Annotated[
        int | None,
        typer.Option(
            envvar="QLLM_HTTP_PORT", help="Port to serve OpenAI's API on over HTTP; 0: any. Without: no HTTP."
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            envvar="QLLM_CORS_ORIGIN",
            help="Origin of web pages that browsers may let use HTTP, such as https://example.org, or * for all; "
            "may be repeated. Without: none.",
        ),
    ] = None,
    policy: Annotated[PolicyName, typer.Option(envvar="QLLM_POLICY", help="Who runs next.")] = _DEFAULT_POLICY,
    preempt_at: Annotated[
        PreemptAt, typer.Option(envvar="QLLM_PREEMPT_AT", help="Where running work may stop.")
    ] = _DEFAULTS.preempt_at,
    preemption_quantum_ms: Annotated[
        float,
        typer.Option(envvar="QLLM_PREEMPTION_QUANTUM_MS", help="Bound on best-effort work sent beside other work."),
    ] = _LIMITS.preemption_quantum_s * 1e3,
    command_window_ms: Annotated[
        float,
        typer.Option(envvar="QLLM_COMMAND_WINDOW_MS", help="Bound on latency-sensitive work sent and not done."),
    ] = _LIMITS.command_window_s * 1e3,
    be_min_share: Annotated[
        float, typer.Option(envvar="QLLM_BE_MIN_SHARE", help="Least share of worker time for waiting best-effort work.")
    ] = _DEFAULTS.starvation.min_share,
    be_window_s: Annotated[
        float, typer.Option(envvar="QLLM_BE_WINDOW_S", help="Sliding window of that share, in seconds.")
    ] = _DEFAULTS.starvation.window_s,
    starvation_threshold: Annotated[
        int,
        typer.Option(envvar="QLLM_STARVATION_THRESHOLD", help="Iterations passed over before promotion; 0: never."),
    ] = _DEFAULTS.starvation.threshold,
    ls_stretch: Annotated[
        float, typer.Option(envvar="QLLM_LS_STRETCH", help="How much longer companions may make an iteration.")
    ] = _LIMITS.ls_stretch,
    ls_alone_share: Annotated[
        float,
        typer.Option(
            envvar="QLLM_LS_ALONE_SHARE",
            help="Share of the time in --be-window-s that people's iterations may take before companions may make them longer.",
        ),
    ] = _LIMITS.ls_alone_share,
    ls_shared_stretch: Annotated[
        float, typer.Option(envvar="QLLM_LS_SHARED_STRETCH", help="How much longer, then: 1 is twice as long.")
    ] = _LIMITS.ls_shared_stretch,
    ls_tpot_ms: Annotated[
        float,
        typer.Option(
            envvar="QLLM_LS_TPOT_MS",
            help="Time that people may wait for each token: best-effort work fills their iterations up to it. 0: no target.",
        ),
    ] = _LIMITS.ls_tpot_s * 1e3,
    max_num_seqs: Annotated[
        int, typer.Option(envvar="QLLM_MAX_NUM_SEQS", help="Most sequences of an iteration; `paper` takes 32 at most.")
    ] = _LIMITS.max_num_seqs,
    be_chunk_tokens: Annotated[
        int, typer.Option(envvar="QLLM_BE_CHUNK_TOKENS", help="Token budget of a best-effort iteration.")
    ] = _LIMITS.be_chunk_tokens,
    be_max_chunk_tokens: Annotated[
        int,
        typer.Option(
            envvar="QLLM_BE_MAX_CHUNK_TOKENS",
            help="That of one in which nobody decodes or prompts pile up, if it is more (policy qllm).",
        ),
    ] = _LIMITS.be_max_chunk_tokens,
    ls_chunk_tokens: Annotated[
        int, typer.Option(envvar="QLLM_LS_CHUNK_TOKENS", help="Token budget of a latency-sensitive iteration.")
    ] = _LIMITS.ls_chunk_tokens,
    max_ls_requests: Annotated[
        int, typer.Option(envvar="QLLM_MAX_LS_REQUESTS", help="Most live latency-sensitive requests.")
    ] = _DEFAULTS.max_ls_requests,
    max_be_requests: Annotated[
        int, typer.Option(envvar="QLLM_MAX_BE_REQUESTS", help="Most live best-effort requests.")
    ] = _DEFAULTS.max_be_requests,
    hang_timeout_s: Annotated[
        float, typer.Option(envvar="QLLM_HANG_TIMEOUT_S", help="A worker without progress for so long counts as hung.")
    ] = 10.0,
    grace_s: Annotated[
        float, typer.Option(envvar="QLLM_GRACE_S", help="Time for running requests when the service stops.")
    ] = 2.0,
    curve_secret_key: Annotated[
        Path | None, typer.Option(envvar="QLLM_CURVE_SECRET_KEY", help="The scheduler's CURVE key pair (*.key_secret).")
    ] = None,
    curve_worker_keys: Annotated[
        Path | None, typer.Option(envvar="QLLM_CURVE_WORKER_KEYS", help="Public keys of the workers that may connect.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(envvar="QLLM_TRACE", help="Record what the worker does when, for ui.perfetto.dev, in this file."),
    ] = None,
    trace_max_mib: Annotated[
        int, typer.Option(envvar="QLLM_TRACE_MAX_MIB", help="Size in MiB at which recording ends.")
    ] = 256,
    log_level: Annotated[LogLevel, typer.Option(envvar="QLLM_LOG_LEVEL", help="How much is logged.")] = LogLevel.INFO,
) -> None:
    """Reads the settings and serves; exits with a code that says how it ended."""
    line = "%(asctime)s %(levelname)s pid=%(process)d %(name)s %(message)s"
    logging.basicConfig(level=log_level.upper(), stream=sys.stderr, format=line)
    try:
        engine = engine_settings(
            policy=policy.value,
            preempt_at=preempt_at,
            preemption_quantum_ms=preemption_quantum_ms,
            command_window_ms=command_window_ms,
            be_min_share=be_min_share,
            be_window_s=be_window_s,
            starvation_threshold=starvation_threshold,
            ls_stretch=ls_stretch,
            ls_alone_share=ls_alone_share,
            ls_shared_stretch=ls_shared_stretch,
            ls_tpot_ms=ls_tpot_ms,
            max_num_seqs=max_num_seqs,
            be_chunk_tokens=be_chunk_tokens,
            be_max_chunk_tokens=be_max_chunk_tokens,
            ls_chunk_tokens=ls_chunk_tokens,
            max_ls_requests=max_ls_requests,
            max_be_requests=max_be_requests,
        )
        config = Config(
            model=model,
            spawn_worker=spawn_worker,
            worker_options=tuple(worker_options or ()),
            control_endpoint=control_endpoint,
            grpc_host=listening_host("--grpc-host", grpc_host),
            grpc_port=grpc_port,
            http_host=listening_host("--http-host", http_host),
            http_port=http_port,
            cors_origins=tuple(cors_origin or ()),
            engine=engine,
            hang_timeout_s=hang_timeout_s,
            grace_s=grace_s,
            curve=curve_server(curve_secret_key, curve_worker_keys),
            trace=trace,
            trace_max_mib=trace_max_mib,
        )
        asyncio.run(_serve(config))
    except (ConfigRefused, EndpointRefused, WorkerRefused) as refusal:
        sys.stderr.write(f"qllm-scheduler: {refusal}\n")
        sys.exit(2)
    except Exception:
        _log.critical("service_died", exc_info=True)
        sys.exit(1)


async def _serve(config: Config) -> None:
    await Service(config).run()


def main() -> None:
    """Entry point of `qllm-scheduler`."""
    report_without_failing()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=_HELP)(serve)
    run_command(app, "qllm-scheduler")


if __name__ == "__main__":
    main()
