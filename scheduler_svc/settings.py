"""What the scheduler service is told at its start, checked before anything is bound or started.

A bad value is refused with its name, what was given and what is allowed.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from qllm.addresses import AddressRefused, listening_ip
from qllm.config_file import CONFIG_HELP, ConfigFile
from qllm.logs import LOG_LEVEL_HELP, LogLevel
from qllm.settings import ADVANCED, MODEL, SCHEDULING, SECURITY, SERVING, Setting, SettingRefused, check, plain

from scheduler_svc.channel.endpoint import CurveServer
from scheduler_svc.security.exposure import ExposureRefused, require_loopback, require_protection
from scheduler_svc.security.key_entries import KeysRefused
from scheduler_svc.security.key_file import KeyFile
from scheduler_svc.security.tls import TlsFiles, TlsRefused
from scheduler_svc.serving.engine_settings import EngineSettings
from scheduler_svc.text.formats.settings import FormatSettings

# As browsers write it, since it is compared letter by letter: in lower case, and without the
# port that the scheme implies.
# How long a worker that does not serve may do nothing, in --hang-timeout-s: a slow disk may take long for one piece.
_STANDSTILL, _LEAST_STANDSTILL_S = 6, 30.0
_ORIGIN = re.compile(
    r"\*|(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The service's settings.

    Raises:
        SettingRefused: A value is not allowed, or two contradict each other.
    """

    worker_options: Annotated[
        tuple[str, ...],
        Setting(is_argument=True),
        "Passes everything that stands after -- on to the worker that --spawn-worker "
        "starts, as options of qllm-worker.",
    ] = ()
    model: Annotated[
        str | None,
        Setting(panel=MODEL),
        "Names the model that is served: a directory, or NAME or ORG/NAME on the Hugging Face "
        "hub. It goes with --spawn-worker.",
    ] = None
    spawn_worker: Annotated[
        bool,
        Setting(panel=MODEL),
        "Starts a worker on this machine, and starts it again whenever it ends.",
    ] = False
    standby: Annotated[
        int,
        Setting(0, 8, panel=MODEL),
        "Starts so many further workers with --spawn-worker, where memory allows. Each holds the model in memory and "
        "takes over within a second when the one that serves is gone, in place of a start that reads the model anew.",
    ] = 0
    grpc_host: Annotated[
        str,
        Setting(panel=SERVING),
        "Sets the address that gRPC is served on: an IP address, or a name of this machine.",
    ] = "127.0.0.1"
    grpc_port: Annotated[
        int,
        Setting(0, 65535, panel=SERVING),
        "Sets the port that gRPC is served on. With 0 the system chooses a free one.",
    ] = 50051
    http_host: Annotated[
        str,
        Setting(panel=SERVING),
        "Sets the address that HTTP is served on: an IP address, or a name of this machine.",
    ] = "127.0.0.1"
    http_port: Annotated[
        int | None,
        Setting(0, 65535, panel=SERVING, unset="no HTTP"),
        "Serves OpenAI's API over HTTP on this port. With 0 the system chooses a free one.",
    ] = None
    cors_origins: Annotated[
        tuple[str, ...],
        Setting(option="cors-origin", panel=SERVING),
        "Lets web pages of this origin, such as https://example.org, use HTTP from a browser; * lets all of them. "
        "It may be given several times.",
    ] = ()
    metrics_host: Annotated[
        str,
        Setting(panel=SERVING),
        "Sets the address that metrics are served on: an IP address, or a name of this machine.",
    ] = "127.0.0.1"
    metrics_port: Annotated[
        int | None,
        Setting(0, 65535, panel=SERVING, unset="no port for them"),
        "Serves metrics for Prometheus on this port, at /metrics; 9464 is the usual one. With 0 the system chooses a "
        "free one. Left out, only the port of --http-port has /metrics.",
    ] = None
    grace_s: Annotated[
        float,
        Setting(0, 3600, panel=SERVING),
        "Sets how many seconds running requests get to end when the service is stopped.",
    ] = 2.0
    tls_cert: Annotated[
        Path | None,
        Setting(panel=SECURITY, unset="gRPC and HTTP are not encrypted"),
        "Names the certificate that gRPC and HTTP show, in PEM, with those that lead to its root. It goes with "
        "--tls-key. A changed file counts within a second, for clients that connect from then on.",
    ] = None
    tls_key: Annotated[
        Path | None,
        Setting(panel=SECURITY),
        "Names the private key of --tls-cert, in PEM and without a password.",
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        Setting(panel=SECURITY, unset="clients need no certificate"),
        "Lets in only clients that show a certificate issued by one of these, in PEM. It goes with --tls-cert.",
    ] = None
    api_keys: Annotated[
        Path | None,
        Setting(panel=SECURITY, unset="nobody needs a key"),
        "Names the file of API keys, one of which each call then needs. `qllm-scheduler new-key TENANT` makes a key, "
        "shows it once, and prints its entry. A changed file counts within a second.",
    ] = None
    insecure: Annotated[
        bool,
        Setting(panel=SECURITY),
        "Lets gRPC and HTTP be served to other machines without TLS and API keys, and metrics too, which have neither. "
        "HTTP then answers to any host name, as a proxy on this machine passes it on.",
    ] = False
    slow_reader_s: Annotated[
        float,
        Setting(1, 3600, panel=SERVING),
        "Ends an answer after so many seconds in which its caller took nothing of it while tokens waited.",
    ] = 60.0
    engine: EngineSettings = field(default_factory=EngineSettings)
    formats: FormatSettings = field(default_factory=FormatSettings)
    state_dir: Annotated[
        Path | None,
        Setting(panel=SERVING, unset="forgotten when the service stops"),
        "Keeps in this directory what outlives the service: durable jobs and their files, unless --state-url is given, "
        "and how long tools took, by which --session-ttl-s is chosen. It is made if it does not exist.",
    ] = None
    state_url: Annotated[
        str | None,
        Setting(panel=SERVING, unset="jobs are in --state-dir"),
        "Keeps durable jobs and their files in the PostgreSQL database of this URL, postgresql://USER@HOST/DATABASE "
        "for example. Several schedulers may share it. A password is better kept in PGPASSWORD or in ~/.pgpass.",
    ] = None
    job_retention_days: Annotated[
        float,
        Setting(0.001, 3650, panel=SERVING),
        "Deletes durable jobs, with their results, so many days after they ended, and files so many days after they "
        "were uploaded.",
    ] = 30.0
    batch_ahead_s: Annotated[
        float,
        Setting(0.1, 86400, panel=SCHEDULING),
        "Takes items of durable jobs from the store, to be run as best-effort work, as long as a further best-effort "
        "request would begin within so many seconds. What is not taken is left to other schedulers.",
    ] = 10.0
    control_endpoint: Annotated[
        str | None,
        Setting(panel=ADVANCED, unset="a private socket"),
        "Sets where the scheduler listens for a worker that is started by itself, not by --spawn-worker: ipc://PATH on "
        "this machine, or tcp://ADDRESS:PORT, which needs CURVE keys.",
    ] = None
    hang_timeout_s: Annotated[
        float,
        Setting(0.2, 3600, panel=ADVANCED),
        "Sets after how many seconds without any progress a worker counts as hung and is replaced. One that "
        "--spawn-worker started, and that loads its model or stands by, is replaced once it did nothing at all for six "
        "times as long, 30 s at least: it neither computed nor read.",
    ] = 10.0
    curve_secret_key: Annotated[
        Path | None,
        Setting(panel=ADVANCED),
        "Names the file with the scheduler's own pair of CURVE keys (*.key_secret), as pyzmq's "
        "zmq.auth.create_certificates writes it. It goes with --curve-worker-keys.",
    ] = None
    curve_worker_keys: Annotated[
        Path | None,
        Setting(panel=ADVANCED),
        "Names the public CURVE keys of the workers that may connect: a file (*.key), or a directory of such files.",
    ] = None
    trace: Annotated[
        Path | None,
        Setting(panel=ADVANCED),
        "Records what the worker does when in this file, which https://ui.perfetto.dev opens.",
    ] = None
    trace_max_mib: Annotated[
        int,
        Setting(1, 1 << 20, panel=ADVANCED),
        "Sets at how many MiB the recording of --trace ends.",
    ] = 256
    log_level: Annotated[LogLevel, Setting(panel=ADVANCED), LOG_LEVEL_HELP] = LogLevel.INFO
    config_file: Annotated[Path | None, ConfigFile(option="config", table="scheduler"), CONFIG_HELP] = None

    def __post_init__(self) -> None:
        check(self)
        self._check_worker()
        self._check_addresses()
        self._check_certificates()
        self._check_exposure()
        self._check_times()
        if (self.curve_secret_key is None) != (self.curve_worker_keys is None):
            raise SettingRefused("CURVE needs both --curve-secret-key and --curve-worker-keys")
        if self.trace is not None and not self.trace.absolute().parent.is_dir():
            raise SettingRefused(f"--trace: got {self.trace}, allowed is a file in a directory that exists")
        if self.state_dir is not None and not self.state_dir.absolute().parent.is_dir():
            raise SettingRefused(f"--state-dir: got {self.state_dir}, allowed is one in a directory that exists")

    @property
    def curve(self) -> CurveServer | None:
        """The CURVE keys; None without."""
        if self.curve_secret_key is None or self.curve_worker_keys is None:
            return None
        return CurveServer(self.curve_secret_key, self.curve_worker_keys)

    @property
    def tls(self) -> TlsFiles | None:
        """The certificates; None without."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def standstill_s(self) -> float:
        """For how long a worker that does not serve may do nothing at all."""
        return max(_LEAST_STANDSTILL_S, _STANDSTILL * self.hang_timeout_s)

    @property
    def spawned_worker_options(self) -> tuple[str, ...]:
        """The options of a worker that is started here, besides the endpoint and the model."""
        shared = () if self.config_file is None else ("--shared-config", str(self.config_file))
        return (*shared, *self.worker_options)

    def _check_worker(self) -> None:
        if self.spawn_worker and not self.model:
            raise SettingRefused("--model: got nothing, a directory or hub id is needed with --spawn-worker")
        if self.model and self.spawn_worker:
            _check_model(self.model)
        if self.model and not self.spawn_worker:
            raise SettingRefused("--model: it belongs to the worker; add --spawn-worker, or give it to qllm-worker")
        if not self.spawn_worker and self.control_endpoint is None:
            raise SettingRefused(
                "nothing to serve: give --model DIR_OR_HUB_ID --spawn-worker, or --control-endpoint ipc://PATH for a "
                "worker that is started elsewhere"
            )
        if self.standby and not self.spawn_worker:
            raise SettingRefused("--standby: it goes with --spawn-worker; a worker that is started elsewhere stands by")
        if self.worker_options and not self.spawn_worker:
            raise SettingRefused(
                f"arguments after --: got {' '.join(self.worker_options)}, allowed with --spawn-worker"
            )

    def _check_addresses(self) -> None:
        listening_host("--grpc-host", self.grpc_host)
        listening_host("--http-host", self.http_host)
        listening_host("--metrics-host", self.metrics_host)
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingRefused(
                    f"--cors-origin: got {origin!r}, allowed is * or SCHEME://HOST[:PORT] as browsers send it: in "
                    "lower case, in ASCII, without a path, and without the scheme's usual port"
                )

    def _check_certificates(self) -> None:
        """Judges certificates and keys as a start would, so that --check-config does."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingRefused("TLS needs both --tls-cert and --tls-key")
        if self.tls_client_ca is not None and self.tls is None:
            raise SettingRefused("--tls-client-ca: it goes with --tls-cert and --tls-key")
        try:
            if self.tls is not None:
                self.tls.read()
            if self.api_keys is not None:
                KeyFile(self.api_keys)
        except TlsRefused as refusal:
            raise SettingRefused(str(refusal)) from None
        except KeysRefused as refusal:
            raise SettingRefused(f"--api-keys: {refusal}") from None

    def _check_exposure(self) -> None:
        """Refuses to be reached by other machines without what keeps strangers out."""
        if self.insecure:
            return
        served = (("--grpc-host", self.grpc_host, self.grpc_port), ("--http-host", self.http_host, self.http_port))
        has_tls, has_keys = self.tls is not None, self.api_keys is not None
        try:
            for option, host, port in served:
                if port is not None:
                    address = listening_host(option, host)
                    require_protection(option, address, port, has_tls=has_tls, has_keys=has_keys)
            if self.metrics_port is not None:
                host = listening_host("--metrics-host", self.metrics_host)
                require_loopback("--metrics-host", host, self.metrics_port)
        except ExposureRefused as refusal:
            raise SettingRefused(str(refusal)) from None

    def _check_times(self) -> None:
        limits = self.engine.limits
        if limits.command_window_s < limits.preemption_quantum_s:
            given, least = limits.command_window_s * 1e3, limits.preemption_quantum_s * 1e3
            raise SettingRefused(
                f"--command-window-ms: got {plain(given)}, allowed is --preemption-quantum-ms, {plain(least)}, or more"
            )


def _check_model(model: str) -> None:
    """Refuses a path without a directory; what may be `name` or `org/name` on the hub is the worker's to find."""
    is_path = model.startswith(("/", ".", "~")) or model.count("/") > 1
    if Path(model).is_dir() or not (is_path or Path(model).exists()):
        return
    found = "which is no directory" if Path(model).exists() else "where there is nothing"
    raise SettingRefused(f"--model: got {model}, {found}; allowed is a directory, or NAME or ORG/NAME on the hub")


def listening_host(option: str, given: str) -> str:
    """Returns the IP address that an option's host stands for; raises SettingRefused if it stands for none."""
    try:
        return listening_ip(given)
    except AddressRefused as refusal:
        raise SettingRefused(f"{option}: {refusal}") from None
