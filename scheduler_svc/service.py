"""The running service: control channel, engine, gRPC server and, where asked for, a supervised worker, in one place.

Owns the order in which they start and stop. Decides nothing about requests.
"""

import asyncio
import contextlib
import logging
import signal
from collections import abc
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qllm.addresses import join
from qllm.settings import SettingRefused
from qllm.stop_signals import stop_signals

from scheduler_svc import __version__
from scheduler_svc.api.backend import Backend
from scheduler_svc.api.grpc.admin import Operation, ServiceSettings
from scheduler_svc.api.grpc.server import ApiServer, GrpcLimits
from scheduler_svc.api.listening import Listening
from scheduler_svc.api.metrics_server import MetricsServer
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.channel.link import WorkerLink
from scheduler_svc.channel.private_directory import private_endpoint
from scheduler_svc.core.sessions import ToolTimes
from scheduler_svc.core.state.commands import Command
from scheduler_svc.core.state.ids import CommandId
from scheduler_svc.core.state.results import IntegrityReport, StepResult, WorkTiming
from scheduler_svc.durable_jobs import make_runner, make_store, opened
from scheduler_svc.generation import ServedModel
from scheduler_svc.process.descriptors import log_failed_accepts_rarely, max_connections, raise_descriptor_limit
from scheduler_svc.process.garbage import spare_the_loop
from scheduler_svc.security.exposure import own_names
from scheduler_svc.security.gate import Gate
from scheduler_svc.security.key_file import KeyFile
from scheduler_svc.security.tls import Certificates
from scheduler_svc.serving.engine import Engine
from scheduler_svc.serving.tool_times_file import StateDirectoryRefused, ToolTimesFile
from scheduler_svc.settings import Config, listening_host
from scheduler_svc.supervisor import WorkerSupervisor
from scheduler_svc.team import WorkerTeam
from scheduler_svc.timeline import Timeline, TraceFile

if TYPE_CHECKING:
    from scheduler_svc.api.openai.server import OpenAiServer

_log = logging.getLogger(__name__)

# What answers that are written, and the one to Drain among them, have to reach their callers without any grace.
_LAST_WORD_S = 0.2


class Service:
    """Everything that serves, from start to stop.

    Args:
        config: The settings.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = loop.create_future()
        self._hurry = asyncio.Event()
        self._grace_s = config.grace_s
        self._trace = _open_trace(config)
        timeline = Timeline(self._trace, loop.time()) if self._trace is not None else None
        tool_times = ToolTimes()
        self._tool_times_file = _open_tool_times(config, tool_times)
        self._jobs = make_store(config.state_dir, config.state_url, config.job_retention_days)
        self._engine = Engine(config.engine, self._send, self._fail, timeline, tool_times)
        self._texts = TextGenerator(self._engine, formats=config.formats)
        most = max_connections(raise_descriptor_limit(), 1 if config.http_port is None else 2)
        backend = Backend(self._engine, self._texts, self._jobs)
        self._gate = gate = None if config.api_keys is None else Gate(KeyFile(config.api_keys), loop.time)
        certificates = None if config.tls is None else Certificates(config.tls)
        listening = Listening(listening_host("--grpc-host", config.grpc_host), config.grpc_port, gate, certificates)
        operation = Operation(_facts(config), self._drain, lambda: self._link.hand_over())
        self._api = ApiServer(backend, operation, listening, GrpcLimits(most, config.slow_reader_s))
        self._http = _make_http(backend, config, most, gate, certificates)
        self._metrics = _make_metrics_server(self._engine, config)
        with _refusing_address("--grpc-port", listening.host, listening.port):
            self._api.bind()
        self._tasks: set[asyncio.Task[None]] = set()
        self._jobs_task: asyncio.Task[None] | None = None
        self._worker_pid = 0

    async def run(self) -> None:
        """Serves until SIGINT, SIGTERM, SIGHUP or a fatal error, which is raised; a second signal ends the grace."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_failed_accepts_rarely())
        for number in stop_signals():
            loop.add_signal_handler(number, self._stop, number)
        async with contextlib.AsyncExitStack() as stack:
            if self._trace is not None:
                stack.enter_context(self._trace)
            if self._tool_times_file is not None:
                await stack.enter_async_context(self._tool_times_file)
                self._own(self._tool_times_file.task)
            if self._jobs is not None:
                directory = self._config.state_dir if self._config.state_url is None else None
                await stack.enter_async_context(opened(self._jobs, directory))
            endpoint = self._config.control_endpoint or stack.enter_context(private_endpoint())
            self._team = self._make_team(endpoint)
            self._link = WorkerLink(
                endpoint, self, curve=self._config.curve, hang_timeout_s=self._config.hang_timeout_s
            )
            await stack.enter_async_context(self._link)
            self._own(self._link.task)
            stack.callback(self._engine.close)
            if self._team is not None:
                self._own(asyncio.create_task(self._team.run(), name="worker-team"))
                stack.push_async_callback(self._team.close)
                stack.callback(self._link.send_shutdown)
            stack.callback(self._texts.close)
            if self._metrics is not None:
                stack.callback(self._metrics.stop)  # after the grace, in which there is something to see
                await self._metrics.start()
            stack.push_async_callback(self._stop_serving)
            await self._api.start()
            if self._jobs is not None:  # of a service that stops, the first thing to end
                max_be_requests = self._config.engine.max_be_requests
                runner = make_runner(
                    self._jobs, self._engine, self._texts, self._gate, self._config.batch_ahead_s, max_be_requests
                )
                self._jobs_task = (await stack.enter_async_context(runner)).task
                self._own(self._jobs_task)
            spare_the_loop()
            if self._http is not None:
                self._own(self._http.start())
            self._log_addresses()
            await self._over
            _log.info("stopping grace_s=%s num_requests=%d", self._grace_s, self._texts.entrance.num_inside)

    # ---- LinkListener: everything goes to the engine, and what concerns the worker's life to its supervisor too

    def worker_joined(self, epoch: int, model: ServedModel, calibration: list[WorkTiming], pid: int) -> None:
        """A worker is ready."""
        self._worker_pid = pid
        if self._team is not None:
            self._team.worker_joined(pid, model.dtype)
        self._engine.worker_joined(epoch, model, calibration, pid)
        self._own(asyncio.create_task(self._texts.warm_up(), name="warm-up"))

    def step_result(self, result: StepResult) -> None:
        """The worker carried out a step."""
        self._engine.step_result(result)

    def integrity_reported(self, report: IntegrityReport) -> None:
        """The worker checked its books."""
        self._engine.integrity_reported(report)

    def command_refused(self, message: str, command_id: CommandId | None) -> None:
        """The worker could not carry out a command."""
        self._engine.command_refused(message, command_id)

    def patience_s(self) -> float | None:
        """How long the worker may go without progress."""
        return self._engine.patience_s()

    def worker_waits(self, pid: int) -> None:
        """A worker stands by."""
        if self._team is not None:
            self._team.worker_waits(pid)

    def worker_lost(self, reason: str, *, died: bool) -> None:
        """The worker is gone."""
        self._engine.worker_lost(reason, died=died)
        if self._team is not None:
            self._team.worker_lost()

    def worker_hung(self, reason: str) -> None:
        """The worker makes no progress; one of our own is replaced."""
        self._engine.worker_hung(reason)
        if self._team is not None:
            self._team.worker_hung(self._worker_pid)

    def worker_recovered(self) -> None:
        """The worker makes progress again."""
        self._engine.worker_recovered()

    # ---- inside

    def _log_addresses(self) -> None:
        servers = {"grpc": self._api, "http": self._http, "metrics": self._metrics}
        addresses = " ".join(f"{name}={server.address if server else None}" for name, server in servers.items())
        config = self._config
        tls = "no" if config.tls is None else "mutual" if config.tls_client_ca is not None else "yes"
        keys = "no" if config.api_keys is None else "yes"
        _log.info("serving %s policy=%s tls=%s api_keys=%s", addresses, config.engine.policy, tls, keys)

    async def _stop_serving(self) -> None:
        """Refuses new requests, and stops once those that run or the grace are over, or at once where there is none."""
        self._refuse_new_requests()
        stopping = asyncio.create_task(self._stop_within(self._grace_s))
        hurrying = asyncio.create_task(self._hurry.wait())
        await asyncio.wait((stopping, hurrying), return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not stopping.done():
            stopping.cancel()
            await asyncio.wait((stopping,))
            await self._stop_front_ends(0)
        else:
            await stopping

    def _refuse_new_requests(self) -> None:
        """Says so to whoever asks for health, and to callers when to come back: the front ends go on answering."""
        self._texts.entrance.close()
        self._api.drain()

    async def _stop_within(self, grace_s: float) -> None:
        """Stops both front ends once no request runs; they share what is left of the grace."""
        clock = asyncio.get_running_loop().time
        until_s = clock() + grace_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                await self._texts.entrance.empty()
        await self._stop_front_ends(max(_LAST_WORD_S, until_s - clock()))

    async def _stop_front_ends(self, grace_s: float) -> None:
        stops = [self._api.stop(grace_s)]
        if self._http is not None:
            stops.append(self._http.stop(grace_s))
        await asyncio.gather(*stops)

    def _make_team(self, endpoint: str) -> WorkerTeam | None:
        config, model = self._config, self._config.model
        if not config.spawn_worker or model is None:
            return None
        options, standstill_s = config.spawned_worker_options, config.standstill_s
        return WorkerTeam(lambda: WorkerSupervisor(endpoint, model, options, standstill_s=standstill_s), config.standby)

    def _send(self, commands: abc.Sequence[Command]) -> None:
        self._link.send(commands)

    def _drain(self, grace_s: float | None) -> float:
        """Stops as a first signal does, with another grace if one is given; returns the grace that holds."""
        if not self._over.done():
            self._grace_s = self._config.grace_s if grace_s is None else grace_s
            _log.info("drain grace_s=%s", self._grace_s)
            self._begin_to_stop()
        return self._grace_s

    def _stop(self, number: signal.Signals) -> None:
        _log.info("signal name=%s", number.name)
        if self._over.done():
            self._hurry.set()
            if self._jobs_task is not None:
                self._jobs_task.cancel()  # its store may not answer; what it leaves is free when its leases end
        else:
            self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        """Refuses new requests at once: what ends before the front ends, jobs and their store, may take seconds."""
        self._refuse_new_requests()
        self._over.set_result(None)

    def _fail(self, error: BaseException) -> None:
        self._hurry.set()  # what runs can't be relied on to end
        if not self._over.done():
            self._over.set_exception(error)

    def _own(self, task: asyncio.Task[None]) -> None:
        """Keeps a background task; one that dies ends the service."""
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)


def _facts(config: Config) -> ServiceSettings:
    engine = config.engine
    return ServiceSettings(
        version=__version__,
        policy=engine.policy,
        preempt_at=engine.preempt_at.value,
        preemption_quantum_ms=engine.limits.preemption_quantum_s * 1e3,
        be_min_share=engine.starvation.min_share,
        max_ls_requests=engine.max_ls_requests,
        max_be_requests=engine.max_be_requests,
        ls_ttft_ms=engine.limits.ls_ttft_s * 1e3,
        ls_tpot_ms=engine.limits.ls_tpot_s * 1e3,
    )


def _make_http(
    backend: Backend, config: Config, max_connections: int, gate: Gate | None, certificates: Certificates | None
) -> "OpenAiServer | None":
    """Returns the HTTP server, on its address already; raises SettingRefused if it cannot be had."""
    if config.http_port is None:
        return None
    try:
        from scheduler_svc.api.openai.connections.limits import HttpLimits
        from scheduler_svc.api.openai.server import OpenAiServer
    except ModuleNotFoundError as error:
        raise SettingRefused(
            f"--http-port: HTTP needs packages of an extra: pip install 'qllm[http]' ({error})"
        ) from None
    host = listening_host("--http-host", config.http_host)
    names = own_names(host, config.cors_origins, has_keys=gate is not None, is_insecure=config.insecure)
    http = OpenAiServer(
        backend,
        Listening(host, config.http_port, gate, certificates, names),
        config.grace_s,
        HttpLimits(max_connections=max_connections, slow_reader_s=config.slow_reader_s),
        config.cors_origins,
    )
    with _refusing_address("--http-port", host, config.http_port):
        http.bind()
    return http


def _make_metrics_server(engine: Engine, config: Config) -> MetricsServer | None:
    """Returns the metrics' own server, on its address already; raises SettingRefused if it cannot be had."""
    if config.metrics_port is None:
        return None
    host = listening_host("--metrics-host", config.metrics_host)
    server = MetricsServer(engine.metrics, host, config.metrics_port)
    with _refusing_address("--metrics-port", host, config.metrics_port):
        server.bind()
    return server


@contextlib.contextmanager
def _refusing_address(option: str, host: str, port: int) -> Iterator[None]:
    """Turns an address that can't be listened on into a refusal that names the option."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # what asyncio's and socket's helpers append
        raise SettingRefused(f"{option}: got {join(host, port)}, which cannot be listened on: {reason}") from None


def _open_trace(config: Config) -> TraceFile | None:
    if config.trace is None:
        return None
    try:
        return TraceFile(config.trace, config.trace_max_mib << 20)
    except OSError as error:
        raise SettingRefused(f"--trace: got {config.trace}, which cannot be written: {error.strerror}") from None


def _open_tool_times(config: Config, tool_times: ToolTimes) -> ToolTimesFile | None:
    if config.state_dir is None:
        return None
    try:
        return ToolTimesFile(config.state_dir, tool_times)
    except StateDirectoryRefused as refusal:
        raise SettingRefused(f"--state-dir: {refusal}") from None
