"""Owns the worker's end of the control channel: one DEALER socket for each epoch, on a thread of its own.

    open (new epoch) --Hello until Welcome--> joined --scheduler gone or silent--> forget everything, open again

The socket is used by two threads under one lock: this one receives and beats, and the engine's sends its results
itself, because waking another thread for that would cost more than the send. Commands go to the mailbox; what they mean
is the engine's business. A scheduler that another worker serves refuses this one, which then waits and asks again.
Source: https://zguide.zeromq.org, chapter 4; a socket may pass between threads behind a full fence.
"""

import contextlib
import logging
import os
import secrets
import select
import threading
import time
from dataclasses import dataclass
from enum import Enum

import zmq
from google.protobuf.message import DecodeError
from qllm.protocol import MAX_FRAME_BYTES
from qllm.v1 import control_pb2
from zmq.utils.monitor import parse_monitor_message

from gpu_worker.channel.mailbox import Forget, Mailbox, Order, Progress, Refusal, Shutdown

_log = logging.getLogger(__name__)

_MAX_QUEUED_MESSAGES = 10_000
_LINGER_MS = 500
_HELLO_INTERVAL_S = 1.0
_MANY_HELLOS = 4
_LONGEST_WAIT_S = 60.0
_DENIED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_EVENTS = zmq.EVENT_DISCONNECTED | _DENIED


@dataclass(frozen=True, slots=True)
class CurveClient:
    """The worker's keys for CURVE, in Z85: its own pair and the scheduler's public key."""

    public: bytes
    secret: bytes
    server: bytes


class _Stage(Enum):
    CONNECTING = 1
    GREETED = 2
    JOINED = 3
    ENDED = 4


class SchedulerLink:
    """The worker's end of the control channel.

    Args:
        endpoint: Where the scheduler binds.
        hello: Introduces the worker; sent anew in every epoch.
        mailbox: Gets an Order for each command, and Forget when an epoch ends.
        progress: The engine's, for heartbeats.
        curve: Keys, if the channel is encrypted.
        scheduler_timeout_s: Seconds without any Welcome after which the scheduler counts as gone.
    """

    def __init__(
        self,
        endpoint: str,
        hello: control_pb2.Hello,
        mailbox: Mailbox,
        progress: Progress,
        *,
        curve: CurveClient | None = None,
        scheduler_timeout_s: float = 15.0,
    ) -> None:
        self._endpoint = endpoint
        self._hello = hello
        self._mailbox = mailbox
        self._progress = progress
        self._curve = curve
        self._scheduler_timeout_s = scheduler_timeout_s
        self._lock = threading.Lock()
        self._context = zmq.Context()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._stage = _Stage.ENDED
        self._epoch = 0
        self._interval_s = 1.0
        self._last_heard_s = 0.0
        self._next_send_s = 0.0
        self._num_dropped = 0
        self._num_hellos = 0
        self._refused_because = ""
        self._thread = threading.Thread(target=self._run, name="scheduler-link", daemon=True)

    @property
    def epoch(self) -> int:
        """The epoch now; commands of another are void."""
        return self._epoch

    def start(self) -> None:
        """Begins to look for the scheduler, on the link's own thread."""
        _log.info("connecting endpoint=%s curve=%s", self._endpoint, self._curve is not None)
        self._thread.start()

    def close(self) -> None:
        """Ends the link; reports sent before get a moment to leave."""
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        self._context.term()
        os.close(self._wake_fd)

    def send(self, epoch: int, report: control_pb2.WorkerReport) -> None:
        """Sends a report at once, from any thread; it is void if its epoch is over."""
        message = control_pb2.ControlMessage(worker_epoch=epoch, report=report)
        frame = message.SerializeToString()
        with self._lock:
            if epoch != self._epoch or self._stage is _Stage.ENDED:
                return
            if not self._try_send(frame):
                self._end_epoch("the scheduler takes no reports")
                return
            # The socket's descriptor signals a change once, and the send may have taken the
            # signal from the thread's poll.
            if int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
                self._receive()

    # Everything below runs on the link's thread, but for what `send` calls with the lock held.

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._open()
                try:
                    self._serve()
                finally:
                    self._close()
        except BaseException:
            # A worker that can't be reached any more is of no use; its supervisor starts another.
            _log.critical("link_died epoch=%016x", self._epoch, exc_info=True)
            os._exit(1)

    def _open(self) -> None:
        sock = self._context.socket(zmq.DEALER)
        sock.immediate = True
        sock.maxmsgsize = MAX_FRAME_BYTES
        sock.linger = _LINGER_MS
        sock.sndhwm = sock.rcvhwm = _MAX_QUEUED_MESSAGES
        sock.reconnect_ivl, sock.reconnect_ivl_max = 50, 1000
        sock.identity = b"w" + secrets.token_bytes(15)
        if self._curve is not None:
            sock.curve_serverkey = self._curve.server
            sock.curve_publickey, sock.curve_secretkey = self._curve.public, self._curve.secret
        self._monitor = sock.get_monitor_socket(_EVENTS)
        sock.connect(self._endpoint)
        with self._lock:
            self._socket = sock
            self._epoch = secrets.randbelow(2**64 - 1) + 1
            self._stage = _Stage.CONNECTING
            self._num_hellos = 0
            self._next_send_s = 0.0

    def _close(self) -> None:
        with self._lock:
            self._stage = _Stage.ENDED
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger=_LINGER_MS if self._stopping else 0)
        self._mailbox.put(Forget())  # nothing of this epoch comes behind it: who receives sees that the stage is ENDED
        self._mailbox.preempted_command_ids = range(0)

    def _serve(self) -> None:
        poller = select.poll()
        for descriptor in (self._socket.FD, self._monitor.FD, self._wake_fd):
            poller.register(descriptor, select.POLLIN)
        while not self._stopping:
            with self._lock:
                self._receive()  # all there is, before each poll: what is there already gives no signal again
                self._speak()
                self._watch_connection()
                self._watch_silence()  # last: what was just received is a sign of life
            if self._stage is _Stage.ENDED:
                return
            wait_s = max(0.0, self._next_send_s - time.monotonic())
            poller.poll(int(wait_s * 1000) + 1)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)

    def _speak(self) -> None:
        """Says Hello as soon as there is a connection and until it is answered, and beats from then on."""
        now_s = time.monotonic()
        if self._stage is not _Stage.CONNECTING and now_s < self._next_send_s:
            return
        if self._stage is _Stage.JOINED:
            self._next_send_s = now_s + self._interval_s
            if not self._try_send(self._frame(control_pb2.WorkerReport(heartbeat=self._heartbeat()))):
                self._end_epoch("the scheduler takes no heartbeats")
        else:
            self._next_send_s = now_s + _HELLO_INTERVAL_S
            if self._try_send(self._frame(control_pb2.WorkerReport(hello=self._hello))):
                self._stage = _Stage.GREETED
                self._num_hellos += 1
                if self._num_hellos >= _MANY_HELLOS and self._num_hellos & (self._num_hellos - 1) == 0:
                    _log.warning("hello_unanswered count=%d: see the scheduler's log for the reason", self._num_hellos)

    def _heartbeat(self) -> control_pb2.Heartbeat:
        progress = self._progress
        return control_pb2.Heartbeat(
            since_progress_ns=progress.since_ns(),
            command_id=progress.command_id,
            mailbox_depth=self._mailbox.qsize(),
        )

    def _frame(self, report: control_pb2.WorkerReport) -> bytes:
        return control_pb2.ControlMessage(worker_epoch=self._epoch, report=report).SerializeToString()

    def _try_send(self, frame: bytes) -> bool:
        try:
            self._socket.send(frame, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def _receive(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                for frame in self._socket.recv_multipart(zmq.DONTWAIT):
                    try:
                        message = control_pb2.ControlMessage.FromString(frame)
                    except DecodeError:
                        self._drop("no ControlMessage")
                    else:
                        self._deliver(message)

    def _deliver(self, message: control_pb2.ControlMessage) -> None:
        if message.worker_epoch != self._epoch or message.WhichOneof("body") != "command":
            self._drop(f"no command of this epoch: epoch {message.worker_epoch:016x}, {message.WhichOneof('body')}")
            return
        match message.command.WhichOneof("command"):
            case "welcome":
                self._on_welcome(message.command.welcome)
            case "refused" if self._stage is _Stage.GREETED:
                self._on_refused(message.command.refused)
            case _ if self._stage is not _Stage.JOINED:
                self._drop("a command before Welcome")
            case "preempt":  # ahead of the commands that wait: it says how they end
                preempt = message.command.preempt
                self._mailbox.preempted_command_ids = range(preempt.first_command_id, preempt.last_command_id + 1)
            case "shutdown":
                self._mailbox.put(Shutdown(message.worker_epoch))
            case _:
                self._mailbox.put(Order(message.worker_epoch, message.command))

    def _on_welcome(self, welcome: control_pb2.Welcome) -> None:
        self._last_heard_s = time.monotonic()
        self._interval_s = min(max(welcome.heartbeat_interval_ms, 10), 60_000) / 1000
        if self._stage is not _Stage.JOINED:
            self._stage = _Stage.JOINED
            self._next_send_s = 0.0
            self._refused_because = ""
            self._wake()
            _log.info("joined epoch=%016x endpoint=%s heartbeat_s=%g", self._epoch, self._endpoint, self._interval_s)

    def _on_refused(self, refused: control_pb2.Refused) -> None:
        """Waits as long as it is told, and then says Hello again; or hands on that there is nothing to wait for."""
        self._num_hellos = 0
        wait_s = _LONGEST_WAIT_S if refused.final else min(refused.retry_after_ms / 1000, _LONGEST_WAIT_S)
        self._next_send_s = time.monotonic() + wait_s
        self._wake()
        if refused.final:
            self._mailbox.put(Refusal(refused.reason))
        elif wait_s and refused.reason != self._refused_because:  # not for every try
            self._refused_because = refused.reason
            _log.warning(
                "waiting endpoint=%s reason=%r: asks again until there is room", self._endpoint, refused.reason
            )

    def _watch_connection(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))["event"]
                if event & _DENIED:
                    name = zmq.Event(event).name
                    _log.error(
                        "handshake_failed endpoint=%s event=%s: check the keys of both sides", self._endpoint, name
                    )
                elif self._stage in (_Stage.GREETED, _Stage.JOINED):
                    self._end_epoch("the connection broke")

    def _watch_silence(self) -> None:
        silence_s = time.monotonic() - self._last_heard_s
        if self._stage is _Stage.JOINED and silence_s > self._scheduler_timeout_s:
            self._end_epoch(f"no sign of the scheduler for {silence_s:.1f} s")

    def _end_epoch(self, reason: str) -> None:
        _log.warning("epoch_ended epoch=%016x reason=%r", self._epoch, reason)
        self._stage = _Stage.ENDED
        self._wake()

    def _drop(self, detail: str) -> None:
        self._num_dropped += 1
        if self._num_dropped & (self._num_dropped - 1) == 0:  # 1, 2, 4, 8, ...
            _log.warning("frame_dropped epoch=%016x count=%d detail=%r", self._epoch, self._num_dropped, detail)

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)
