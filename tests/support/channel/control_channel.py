"""Both ends of the control channel for tests: a listener that remembers, worker processes, and a peer for any bytes."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import zmq
from qllm.protocol import PROTOCOL_VERSION
from qllm.v1 import control_pb2

from scheduler_svc.channel.link import WorkerLink
from scheduler_svc.core.state.commands import Advance
from scheduler_svc.core.state.cursor import Cursor
from scheduler_svc.core.state.ids import BatchId, CommandId
from scheduler_svc.core.state.results import IntegrityReport, StepResult, WorkTiming
from scheduler_svc.generation import ServedModel
from tests.support.channel.fake_worker import hello

ROOT = Path(__file__).parents[3]
LONG_S = 300.0

Event = tuple[object, ...]


class RecordingListener:
    """Remembers events as tuples, and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.model: ServedModel | None = None
        self.calibration: list[WorkTiming] = []
        self.results: list[StepResult] = []
        self._changed = asyncio.Event()

    def _note(self, *event: object) -> None:
        self.events.append(event)
        self._changed.set()

    def worker_joined(self, epoch: int, model: ServedModel, calibration: list[WorkTiming], pid: int) -> None:
        self.model, self.calibration = model, calibration
        self._note("joined", epoch, pid)

    def step_result(self, result: StepResult) -> None:
        self.results.append(result)
        self._note("result", result.command_id)

    def integrity_reported(self, report: IntegrityReport) -> None:
        self._note("integrity", report)

    def command_refused(self, message: str, command_id: CommandId | None) -> None:
        self._note("refused", command_id, message)

    def patience_s(self) -> float | None:
        return None

    def worker_lost(self, reason: str, *, died: bool) -> None:
        self._note("lost", reason, died)

    def worker_waits(self, pid: int) -> None:
        self._note("waits", pid)

    def worker_hung(self, reason: str) -> None:
        self._note("hung", reason)

    def worker_recovered(self) -> None:
        self._note("recovered")

    def of(self, kind: str) -> list[Event]:
        """The events of one kind."""
        return [event for event in self.events if event[0] == kind]

    async def wait_for(self, kind: str, count: int = 1) -> Event:
        """Waits until there are `count` events of a kind, and returns that one."""
        async with asyncio.timeout(LONG_S):
            while len(self.of(kind)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.of(kind)[count - 1]


async def eventually(is_true: Callable[[], object]) -> None:
    """Waits until something is true."""
    async with asyncio.timeout(LONG_S):
        while not is_true():  # noqa: ASYNC110 - what is waited for raises no event
            await asyncio.sleep(0.005)


def advance(command_id: int, batch_id: int = 1) -> Advance:
    return Advance(CommandId(command_id), (BatchId(batch_id),), Cursor(1))


@contextmanager
def ipc_endpoint() -> Iterator[str]:
    """A short path: a socket's name has at most 107 bytes, and pytest's tmp_path may be longer."""
    with tempfile.TemporaryDirectory(prefix="qllm", dir="/tmp") as directory:
        yield f"ipc://{directory}/c/s"


@asynccontextmanager
async def listening(
    endpoint: str,
    listener: RecordingListener | None = None,
    *,
    heartbeat_interval_s: float = 0.05,
    hang_timeout_s: float = 10.0,
) -> AsyncIterator[tuple[WorkerLink, RecordingListener]]:
    """A link that waits for workers."""
    listener = listener or RecordingListener()
    times = {"heartbeat_interval_s": heartbeat_interval_s, "hang_timeout_s": hang_timeout_s}
    async with WorkerLink(endpoint, listener, **times) as link:
        yield link, listener


def python_path() -> dict[str, str]:
    """The environment in which a child finds this working tree."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}


@contextmanager
def worker_process(endpoint: str, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A real worker process around an executor that sleeps; see fake_worker."""
    arguments = [sys.executable, "-m", "tests.support.channel.fake_worker", "--control-endpoint", endpoint, *options]
    with subprocess.Popen(arguments, cwd=ROOT, env=python_path()) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()


def command_frame(epoch: int, **command: object) -> bytes:
    step = control_pb2.StepCommand(**command)  # type: ignore[arg-type]
    return control_pb2.ControlMessage(worker_epoch=epoch, command=step).SerializeToString()


class RawPeer:
    """A peer that can send anything, as any identity."""

    def __init__(self, endpoint: str, identity: bytes = b"stray", max_queued_frames: int = 0) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.rcvhwm = max_queued_frames
        self.socket.sndhwm = 0
        self.socket.linger = 500
        self.socket.identity = identity
        self.socket.connect(endpoint)
        self._frames: deque[bytes] = deque()

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._context.term()

    def send(self, *parts: bytes) -> None:
        self.socket.send_multipart(parts)

    def say_hello(self, epoch: int, protocol_version: int = PROTOCOL_VERSION) -> None:
        self.report(epoch, hello=hello(protocol_version))

    def report(self, epoch: int, **report: object) -> None:
        message = control_pb2.WorkerReport(**report)  # type: ignore[arg-type]
        self.send(control_pb2.ControlMessage(worker_epoch=epoch, report=message).SerializeToString())

    async def receive(self, kind: str) -> control_pb2.ControlMessage:
        """Waits for a command of a kind; Welcomes repeat, others are skipped."""
        async with asyncio.timeout(LONG_S):
            while True:
                while not self._frames:  # a plain socket raises no event
                    if self.socket.poll(0):
                        self._frames.extend(self.socket.recv_multipart())
                    else:
                        await asyncio.sleep(0.005)
                message = control_pb2.ControlMessage.FromString(self._frames.popleft())
                if message.command.WhichOneof("command") == kind:
                    return message


class RawRouter:
    """A scheduler's socket that does only what a test says."""

    def __init__(self, endpoint: str) -> None:
        Path(endpoint.removeprefix("ipc://")).parent.mkdir(parents=True, exist_ok=True)
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(endpoint)

    def __enter__(self) -> "RawRouter":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._context.term()

    async def receive(self, kind: str) -> tuple[bytes, control_pb2.ControlMessage]:
        """Waits for a report of a kind, and returns it with its sender; others are skipped."""
        async with asyncio.timeout(LONG_S):
            while True:
                while not self.socket.poll(0):  # noqa: ASYNC110 - a plain socket raises no event
                    await asyncio.sleep(0.005)
                identity, frame = self.socket.recv_multipart()
                message = control_pb2.ControlMessage.FromString(frame)
                if message.report.WhichOneof("report") == kind:
                    return identity, message

    def command(self, identity: bytes, epoch: int, **command: object) -> None:
        self.socket.send_multipart([identity, command_frame(epoch, **command)])

    async def welcome_next_hello(self) -> control_pb2.ControlMessage:
        identity, message = await self.receive("hello")
        self.command(identity, message.worker_epoch, welcome=control_pb2.Welcome(heartbeat_interval_ms=50))
        return message
