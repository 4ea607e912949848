"""What the scheduler service is told at its start, checked before anything is bound or started.

A bad value is refused with its name, what was given and what is allowed.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from qllm.addresses import AddressRefused, listening_ip

from scheduler_svc.channel.endpoint import CurveServer
from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.serving.engine import EngineSettings

# As browsers write it, since it is compared letter by letter: in lower case, and without the port that the scheme implies.
_ORIGIN = re.compile(
    r"\*|(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
)


class ConfigRefused(ValueError):
    """A setting that is not allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The service's settings.

    Attributes:
        model: Directory or hub id for a spawned worker; None when workers are started elsewhere.
        spawn_worker: Start and supervise a local worker.
        worker_options: Further options of the spawned worker, as on its command line.
        control_endpoint: Where workers connect; None makes a socket in a fresh private directory.
        grpc_host: IP address to serve gRPC on, without brackets; `http_host` likewise.
        hang_timeout_s: Seconds without progress after which a worker counts as hung.
        grace_s: Seconds that running requests get when the service stops.
        http_port: Port of the OpenAI-compatible HTTP endpoint; None serves no HTTP.
        cors_origins: Origins of web pages that may use it, such as https://example.org; "*" for all.
        trace: File to record a timeline in; None records nothing.
        trace_max_mib: Size at which recording ends.
    """

    model: str | None = None
    spawn_worker: bool = False
    worker_options: tuple[str, ...] = ()
    control_endpoint: str | None = None
    grpc_host: str = "127.0.0.1"
    grpc_port: int = 50051
    http_host: str = "127.0.0.1"
    http_port: int | None = None
    cors_origins: tuple[str, ...] = ()
    engine: EngineSettings = field(default_factory=EngineSettings)
    hang_timeout_s: float = 10.0
    grace_s: float = 2.0
    curve: CurveServer | None = None
    trace: Path | None = None
    trace_max_mib: int = 256

    def __post_init__(self) -> None:
        if self.spawn_worker and not self.model:
            raise ConfigRefused("--model: got nothing, a directory or hub id is needed with --spawn-worker")
        if self.model and self.spawn_worker:
            _check_model(self.model)
        if self.model and not self.spawn_worker:
            raise ConfigRefused("--model: it belongs to the worker; add --spawn-worker, or give it to qllm-worker")
        if not self.spawn_worker and self.control_endpoint is None:
            raise ConfigRefused(
                "nothing to serve: give --model DIR_OR_HUB_ID --spawn-worker, or --control-endpoint ipc://PATH for a worker "
                "that is started elsewhere"
            )
        if self.worker_options and not self.spawn_worker:
            raise ConfigRefused(f"arguments after --: got {' '.join(self.worker_options)}, allowed with --spawn-worker")
        _check("--grpc-port", self.grpc_port, 0, 65535)
        _check("--http-port", self.http_port or 0, 0, 65535)
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigRefused(
                    f"--cors-origin: got {origin!r}, allowed is * or SCHEME://HOST[:PORT] as browsers send it: in lower case, "
                    "in ASCII, without a path, and without the scheme's usual port"
                )
        _check("--hang-timeout-s", self.hang_timeout_s, 0.2, 3600)
        _check("--grace-s", self.grace_s, 0, 3600)
        _check("--trace-max-mib", self.trace_max_mib, 1, 1 << 20)
        if self.trace is not None and not self.trace.absolute().parent.is_dir():
            raise ConfigRefused(f"--trace: got {self.trace}, allowed is a file in a directory that exists")


def _check_model(model: str) -> None:
    """Refuses a path at which there is no directory; what may be `name` or `org/name` on the hub is the worker's to find."""
    is_path = model.startswith(("/", ".", "~")) or model.count("/") > 1
    if Path(model).is_dir() or not (is_path or Path(model).exists()):
        return
    found = "which is no directory" if Path(model).exists() else "where there is nothing"
    raise ConfigRefused(f"--model: got {model}, {found}; allowed is a directory, or NAME or ORG/NAME on the hub")


def engine_settings(
    *,
    policy: str,
    preempt_at: PreemptAt,
    preemption_quantum_ms: float,
    command_window_ms: float,
    be_min_share: float,
    be_window_s: float,
    starvation_threshold: int,
    ls_stretch: float,
    ls_alone_share: float,
    ls_shared_stretch: float,
    ls_tpot_ms: float,
    max_num_seqs: int,
    be_chunk_tokens: int,
    be_max_chunk_tokens: int,
    ls_chunk_tokens: int,
    max_ls_requests: int,
    max_be_requests: int,
) -> EngineSettings:
    """Makes the engine's settings; raises ConfigRefused for a value out of range."""
    if policy not in POLICIES:
        raise ConfigRefused(f"--policy: got {policy!r}, allowed are {', '.join(POLICIES)}")
    _check("--preemption-quantum-ms", preemption_quantum_ms, 0.1, 10_000)
    _check("--command-window-ms", command_window_ms, preemption_quantum_ms, 10_000)
    _check("--be-min-share", be_min_share, 0, 0.9)
    _check("--be-window-s", be_window_s, 0.1, 3600)
    _check("--starvation-threshold", starvation_threshold, 0, 1 << 30)
    _check("--ls-stretch", ls_stretch, 0, 100)
    _check("--ls-alone-share", ls_alone_share, 0, 1)
    _check("--ls-shared-stretch", ls_shared_stretch, 0, 100)
    _check("--ls-tpot-ms", ls_tpot_ms, 0, 60_000)
    _check("--max-num-seqs", max_num_seqs, 1, 4096)
    _check("--be-chunk-tokens", be_chunk_tokens, 1, 1 << 20)
    _check("--be-max-chunk-tokens", be_max_chunk_tokens, 1, 1 << 20)
    _check("--ls-chunk-tokens", ls_chunk_tokens, 1, 1 << 20)
    _check("--max-ls-requests", max_ls_requests, 1, 1 << 20)
    _check("--max-be-requests", max_be_requests, 1, 1 << 20)
    limits = Limits(
        max_num_seqs=max_num_seqs,
        be_chunk_tokens=be_chunk_tokens,
        be_max_chunk_tokens=be_max_chunk_tokens,
        ls_chunk_tokens=ls_chunk_tokens,
        ls_stretch=ls_stretch,
        ls_alone_share=ls_alone_share,
        ls_shared_stretch=ls_shared_stretch,
        ls_tpot_s=ls_tpot_ms / 1e3,
        preemption_quantum_s=preemption_quantum_ms / 1e3,
        command_window_s=command_window_ms / 1e3,
    )
    starvation = StarvationLimits(be_min_share, be_window_s, starvation_threshold)
    return EngineSettings(policy, preempt_at, limits, starvation, max_ls_requests, max_be_requests)


def listening_host(option: str, given: str) -> str:
    """Returns the IP address that an option's host stands for; raises ConfigRefused if it stands for none."""
    try:
        return listening_ip(given)
    except AddressRefused as refusal:
        raise ConfigRefused(f"{option}: {refusal}") from None


def curve_server(secret_key: Path | None, worker_keys: Path | None) -> CurveServer | None:
    """Makes the CURVE settings; raises ConfigRefused if only one of the two is given."""
    if secret_key is None and worker_keys is None:
        return None
    if secret_key is None or worker_keys is None:
        raise ConfigRefused("CURVE needs both --curve-secret-key and --curve-worker-keys")
    return CurveServer(secret_key, worker_keys)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigRefused(f"{name}: got {value}, allowed is {low} to {high}")
