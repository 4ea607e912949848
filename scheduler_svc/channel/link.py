"""Owns the scheduler's end of the control channel: who the worker is, whether it lives, and what it reported.

    ABSENT --Hello--> READY <--progress / no progress--> HUNG      READY or HUNG --connection gone, new Hello--> ABSENT

One worker at a time: while it is there and makes progress, others that say Hello are told to wait. Its random epoch
fences everything: a frame of another epoch, of a stranger, or that is no valid report is dropped, counted and logged,
and changes nothing. It decides nothing about requests: the listener does.

How the loss of a worker is told from the loss of a stranger: ZeroMQ says that *a* connection broke, not whose. So on
every break, and at every heartbeat, a Welcome is sent to the worker's identity; ROUTER_MANDATORY makes that fail if it
is gone. Repeated Welcomes also tell the worker that the scheduler lives.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from qllm.protocol import PROTOCOL_VERSION
from qllm.v1 import control_pb2

from scheduler_svc.channel import codec
from scheduler_svc.channel.codec import ProtocolError
from scheduler_svc.channel.dropped_frames import DroppedFrames
from scheduler_svc.channel.endpoint import CurveServer, prepare_endpoint
from scheduler_svc.channel.known_worker import KnownWorker
from scheduler_svc.channel.listener import LinkListener
from scheduler_svc.channel.router import PeerGone, Router
from scheduler_svc.channel.waiting_workers import WaitingWorkers
from scheduler_svc.core.state.commands import Command
from scheduler_svc.core.state.ids import CommandId
from scheduler_svc.generation import WorkerState

_log = logging.getLogger(__name__)

_PROBE_DELAYS_S = (0.0, 0.01, 0.05, 0.2)
_MAX_ENDED_EPOCHS = 64


class _Loss(NamedTuple):
    reason: str
    died: bool


class WorkerLink:
    """The scheduler's end of the control channel; use it as an async context, or start and close it.

    Args:
        endpoint: ipc://PATH, or tcp://ADDRESS:PORT together with `curve`.
        listener: Hears of everything that happens.
        curve: Keys, for TCP.
        heartbeat_interval_s: Seconds between the worker's heartbeats.
        hang_timeout_s: Seconds without progress, or without any heartbeat, after which a worker counts as hung.
    """

    def __init__(
        self,
        endpoint: str,
        listener: LinkListener,
        *,
        curve: CurveServer | None = None,
        heartbeat_interval_s: float = 0.25,
        hang_timeout_s: float = 10.0,
    ) -> None:
        self._endpoint = endpoint
        self._listener = listener
        self._curve = curve
        self._interval_s = min(heartbeat_interval_s, hang_timeout_s / 4)
        self._hang_timeout_s = hang_timeout_s
        self._worker: KnownWorker | None = None
        self._epoch = 0
        self._ended_epochs: deque[int] = deque(maxlen=_MAX_ENDED_EPOCHS)
        self._is_ending = False
        self._unreported_loss: _Loss | None = None
        self._dropped = DroppedFrames()
        self._watch_task: asyncio.Task[None] | None = None
        self._probe_timers: list[asyncio.TimerHandle] = []

    @property
    def state(self) -> WorkerState:
        """The worker's state now."""
        if self._worker is None:
            return WorkerState.ABSENT
        return WorkerState.READY if self._worker.hung_reason is None else WorkerState.HUNG

    @property
    def epoch(self) -> int:
        """The connected or last worker's epoch; 0 if none ever joined."""
        return self._epoch

    @property
    def num_waiting(self) -> int:
        """How many workers are there and wait for the place of the one that serves."""
        return self._waiting.num_there()

    @property
    def dropped_frames(self) -> Mapping[str, int]:
        """Frames dropped since the start, by reason: shape, unparsable, stranger, epoch, version, invalid, unasked."""
        return self._dropped.counts

    @property
    def task(self) -> asyncio.Task[None]:
        """Watches the worker, from `start` to `close`; one that dies must not go unnoticed."""
        assert self._watch_task is not None
        return self._watch_task

    @property
    def bound_endpoint(self) -> str:
        """Where the channel is bound, with the real port when port 0 was asked for."""
        return self._router.bound_endpoint

    async def start(self) -> None:
        """Binds the channel; raises EndpointRefused if it is not safe or not possible."""
        self._loop = asyncio.get_running_loop()
        keys = prepare_endpoint(self._endpoint, self._curve)
        self._router = Router(
            self._endpoint,
            keys,
            silence_limit_s=3 * self._hang_timeout_s,
            on_message=self._on_message,
            on_disconnect=self._on_disconnect,
        )
        self._router.open()
        self._waiting = WaitingWorkers(self._router)
        self._watch_task = asyncio.create_task(self._watch(), name="worker-link-watch")
        _log.info("control_channel_bound endpoint=%s curve=%s", self.bound_endpoint, keys is not None)

    async def close(self) -> None:
        """Closes the channel; the listener hears nothing more."""
        if self._watch_task is None:
            return
        task, self._watch_task = self._watch_task, None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        for timer in self._probe_timers:
            timer.cancel()
        self._unreported_loss = None
        self._worker = None
        self._router.close()

    async def __aenter__(self) -> Self:
        """Starts."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes."""
        await self.close()

    # ---- commands out

    def send(self, commands: Sequence[Command]) -> bool:
        """Hands commands over in order, without waiting; returns False if there is no worker to take them.

        When the worker turns out to be gone, they are discarded and the listener hears of the loss soon after.
        """
        if self._worker is not None:
            self._worker.expect_answers(commands)
        return self._send([codec.encode_command(self._epoch, command) for command in commands])

    def send_shutdown(self) -> bool:
        """Tells the worker to end in good order, after the commands sent so far."""
        self._is_ending = True
        return self._send([codec.encode_shutdown(self._epoch)])

    def hand_over(self) -> bool:
        """Lets a worker that waits serve in place of the one that does, which ends; returns False if none waits.

        The listener hears of a loss, and then that a worker joined.
        """
        if self._worker is None or not self.num_waiting:
            return False
        self._send([codec.encode_shutdown(self._epoch)])
        self._lose("it hands over to a worker that waits", died=False)
        self._report_loss()
        return True

    def _send(self, frames: Sequence[bytes]) -> bool:
        if self._worker is None:
            return False
        try:
            self._router.send(self._worker.identity, frames)
        except PeerGone as reason:
            self._lose(str(reason))
            self._loop.call_soon(self._report_loss)
            return False
        finally:
            self._router.check_readable()
        return True

    # ---- reports in

    def _on_message(self, parts: list[bytes]) -> None:
        self._report_loss()
        if len(parts) != 2:
            self._dropped.add("shape", f"message of {len(parts)} parts, allowed is one frame after the identity")
            return
        identity, frame = parts
        try:
            message = codec.decode_report(frame)
        except ProtocolError as error:
            self._dropped.add("unparsable", error)
            return
        worker, epoch, report = self._worker, message.worker_epoch, message.report
        if report.WhichOneof("report") == "hello":
            self._on_hello(identity, epoch, report.hello)
        elif worker is None or identity != worker.identity:
            self._dropped.add("stranger", f"report of epoch {epoch:016x} from a peer that is not the worker")
        elif epoch != worker.epoch:
            self._dropped.add("epoch", f"report of epoch {epoch:016x}, the worker's is {worker.epoch:016x}")
        else:
            worker.last_heard_s = self._loop.time()
            self._on_report(worker, report)

    def _on_report(self, worker: KnownWorker, report: control_pb2.WorkerReport) -> None:
        kind = report.WhichOneof("report")
        if kind == "step_result":
            self._on_step_result(worker, report.step_result)
        elif kind == "heartbeat":
            # Other commands than steps, such as moves between tiers, report no progress before their end.
            patience_s = self._listener.patience_s() if report.heartbeat.command_id else None
            if worker.judge_progress(report.heartbeat.since_progress_ns / 1e9, patience_s):
                self._tell_verdict(worker)
        elif kind == "command_error":
            self._on_command_error(worker, report.command_error)
        elif kind == "integrity_report":
            self._on_integrity_report(worker, report.integrity_report)

    def _on_step_result(self, worker: KnownWorker, result: control_pb2.StepResult) -> None:
        if not self._is_answer(worker, result.command_id):
            return
        try:
            decoded = codec.decode_step_result(result, worker.model)
        except ProtocolError as error:
            # Its Advance will have no other answer, so it must not vanish without a word.
            self._dropped.add("invalid", error)
            self._listener.command_refused(f"invalid answer: {error}", CommandId(result.command_id))
            return
        self._listener.step_result(decoded)

    def _on_integrity_report(self, worker: KnownWorker, report: control_pb2.IntegrityReport) -> None:
        if worker.take_check(report.check_id):
            self._listener.integrity_reported(codec.decode_integrity_report(report))
        else:
            self._dropped.add("unasked", f"answer to check {report.check_id}, which was not asked for")

    def _on_command_error(self, worker: KnownWorker, error: control_pb2.CommandError) -> None:
        if error.command_id and not self._is_answer(worker, error.command_id):
            return
        _log.error("command_refused epoch=%016x command_id=%d error=%r", worker.epoch, error.command_id, error.message)
        self._listener.command_refused(error.message, CommandId(error.command_id) if error.command_id else None)

    def _is_answer(self, worker: KnownWorker, command_id: int) -> bool:
        is_answer = worker.take_answer(command_id)
        if not is_answer:
            self._dropped.add("unasked", f"answer to command {command_id}, which waits for none")
        return is_answer

    def _on_hello(self, identity: bytes, epoch: int, hello: control_pb2.Hello) -> None:
        worker = self._worker
        if hello.protocol_version != PROTOCOL_VERSION:
            versions = f"{hello.protocol_version}, the scheduler {PROTOCOL_VERSION}"
            why = f"worker of pid {hello.pid} speaks protocol {versions}: upgrade one of them"
            self._refuse_for_good(identity, epoch, "version", why)
        elif worker is not None and (identity, epoch) == (worker.identity, worker.epoch):
            self._probe()
        elif epoch == self._epoch or epoch in self._ended_epochs:
            self._dropped.add("epoch", f"hello of epoch {epoch:016x}, which is over")
        elif incumbent := self._incumbent(identity):
            self._waiting.add(identity, epoch, f"the worker of pid {incumbent.pid} serves here", hello.pid)
            self._listener.worker_waits(hello.pid)
        else:
            self._welcome(identity, epoch, hello)

    def _incumbent(self, newcomer: bytes) -> KnownWorker | None:
        """Returns the worker that keeps its place against a newcomer: a peer of its own that is there and not hung."""
        self._probe()
        worker = self._worker
        keeps_its_place = worker is not None and worker.identity != newcomer and worker.hung_reason is None
        return worker if keeps_its_place else None

    def _welcome(self, identity: bytes, epoch: int, hello: control_pb2.Hello) -> None:
        try:
            model, calibration = codec.decode_model(hello), codec.decode_calibration(hello)
            self._router.send(identity, [codec.encode_welcome(epoch, self._interval_ms)])
        except ProtocolError as error:
            self._refuse_for_good(identity, epoch, "invalid", str(error))
            return
        except PeerGone as reason:
            _log.warning("worker_left_at_once epoch=%016x reason=%r", epoch, str(reason))
            return
        self._replace_worker(identity, f"another worker (pid {hello.pid}, epoch {epoch:016x}) took its place")
        self._worker = KnownWorker(identity, epoch, model, hello.pid, self._hang_timeout_s, self._loop.time())
        self._epoch = epoch
        _log.info("worker_joined epoch=%016x pid=%d model=%s device=%s", epoch, hello.pid, model.name, model.device)
        self._listener.worker_joined(epoch, model, calibration, hello.pid)

    def _refuse_for_good(self, identity: bytes, epoch: int, kind: str, why: str) -> None:
        self._dropped.add(kind, why)
        with contextlib.suppress(PeerGone):
            self._router.send(identity, [codec.encode_refused(epoch, why, None)])

    def _replace_worker(self, new_identity: bytes, reason: str) -> None:
        if self._worker is None:
            return
        if self._worker.identity != new_identity:
            self._send([codec.encode_shutdown(self._epoch)])
        self._lose(reason)
        self._report_loss()

    # ---- workers come and go

    @property
    def _interval_ms(self) -> int:
        return max(1, int(self._interval_s * 1000))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                self._look_after_worker()
            except Exception as error:  # a listener's; it ends up where errors of the socket's callbacks do
                context = {"message": "worker link: the listener failed", "exception": error}
                self._loop.call_exception_handler(context)

    def _look_after_worker(self) -> None:
        self._router.drain()  # what a stalled loop has not read yet must not count as silence
        self._probe()
        worker = self._worker
        if worker is not None and worker.judge_silence(self._loop.time(), self._listener.patience_s()):
            self._tell_verdict(worker)

    def _tell_verdict(self, worker: KnownWorker) -> None:
        if worker.hung_reason is None:
            _log.warning("worker_recovered epoch=%016x", worker.epoch)
            self._listener.worker_recovered()
        else:
            _log.error("worker_hung epoch=%016x reason=%r", worker.epoch, worker.hung_reason)
            self._listener.worker_hung(worker.hung_reason)
            self._waiting.invite()

    def _on_disconnect(self) -> None:
        # The event comes from ZeroMQ's own thread and may be ahead of what the socket knows: look more than once.
        for timer in self._probe_timers:
            timer.cancel()
        self._probe_timers = [self._loop.call_later(delay_s, self._probe) for delay_s in _PROBE_DELAYS_S]

    def _probe(self) -> None:
        worker = self._worker
        if worker is None:
            return
        try:
            self._router.send(worker.identity, [codec.encode_welcome(worker.epoch, self._interval_ms)])
        except PeerGone as reason:
            self._router.drain()  # what it said before it went is still worth hearing
            if worker is self._worker:
                self._lose(str(reason))
                self._report_loss()
        else:
            self._router.check_readable()

    def _lose(self, reason: str, *, died: bool = True) -> None:
        if self._worker is None:
            return
        self._worker = None
        self._ended_epochs.append(self._epoch)
        self._unreported_loss = _Loss(reason, died)
        level = logging.INFO if self._is_ending else logging.ERROR
        _log.log(level, "worker_lost epoch=%016x reason=%r", self._epoch, reason)

    def _report_loss(self) -> None:
        if self._unreported_loss is not None:
            loss, self._unreported_loss = self._unreported_loss, None
            self._listener.worker_lost(loss.reason, died=loss.died)
            if not self._is_ending:
                self._waiting.invite()
