"""Starts a QLLM service as processes of its own and stops it again. Knows nothing of loads."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qllm.client.async_client import AsyncClient
from qllm.client.bench.errors import ServiceFailed, TargetFailed
from qllm.client.errors import QllmError, Unavailable

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.1
_DEATH_S = 3.0
_LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How a service is started.

    Attributes:
        model: Directory or hub id.
        scheduler: Command-line options of the scheduler.
        worker: Command-line options of its worker.
        control_endpoint: Where a worker that runs already looks for its scheduler; empty starts one.
    """

    model: str
    scheduler: tuple[str, ...] = ()
    worker: tuple[str, ...] = ()
    control_endpoint: str = ""

    def command(self, port: int) -> list[str]:
        """Returns the command line that serves the model on a port of the loopback interface."""
        where = ("--grpc-host", "127.0.0.1", "--grpc-port", str(port))
        command = [sys.executable, "-m", "scheduler_svc", *where, *self.scheduler]
        if self.control_endpoint:
            return [*command, "--control-endpoint", self.control_endpoint]
        return [*command, "--model", self.model, "--spawn-worker", "--", *self.worker]


@asynccontextmanager
async def running_service(options: ServiceOptions, *, echo: bool = False) -> AsyncIterator[str]:
    """Runs a service on a free port of this machine, and yields its address once it serves.

    Args:
        options: How it is started.
        echo: Whether its log goes to this process's stderr instead of a file.

    Raises:
        ServiceFailed: It did not come up, could not be measured or reached by the block, or had ended by the time that
            the block was left. Its log is kept, and named.
        QllmError: It refused or failed a request of the block and goes on.
    """
    port = free_port()
    address = f"127.0.0.1:{port}"
    with nullcontext((None, None)) if echo else _log_file() as (log, path):
        process = await _start(options.command(port), log)
        try:
            await _wait_until_serving(address, process, path)
            yield address
            if process.returncode is not None:
                raise _failure("it ended while it was measured", process, path)
        except (TargetFailed, QllmError) as failure:
            if _kind(failure) == Unavailable.status.name:
                await _wait_until_dead(process)
            elif isinstance(failure, QllmError) and process.returncode is None:
                raise
            raise _failure(_said(failure), process, path) from failure
        finally:
            await _stop(process)


async def _start(command: Sequence[str], log: IO[bytes] | None) -> asyncio.subprocess.Process:
    """Starts a scheduler in a session of its own: Ctrl-C reaches this process only, which then stops both in order."""
    return await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


async def _wait_until_serving(address: str, process: asyncio.subprocess.Process, log: Path | None) -> None:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + START_TIMEOUT_S
    async with AsyncClient(address) as client:
        while not await _serves(client):
            if process.returncode is not None:
                raise _failure("it never served", process, log)
            if loop.time() > deadline_s:
                raise _failure(f"it did not serve within {START_TIMEOUT_S:.0f} s", process, log)
            await asyncio.sleep(_POLL_S)


async def _serves(client: AsyncClient) -> bool:
    try:
        return await client.health()
    except QllmError:
        return False


async def _wait_until_dead(process: asyncio.subprocess.Process) -> None:
    """Waits a moment, since calls on a service that dies may fail before its process has ended."""
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _DEATH_S)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Asks the scheduler to stop its worker and end; ends the whole session by force if that takes too long."""
    try:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


@contextmanager
def _log_file() -> Iterator[tuple[IO[bytes], Path]]:
    """Yields a file that stays only if the service fails."""
    is_kept = False
    with tempfile.NamedTemporaryFile(prefix="qllm-service-", suffix=".log", delete=False) as log:
        path = Path(log.name)
        try:
            yield log, path
        except ServiceFailed:
            is_kept = True
            raise
        finally:
            if not is_kept:
                path.unlink()


def _kind(failure: TargetFailed | QllmError) -> str | None:
    return failure.status.name if isinstance(failure, QllmError) else failure.kind


def _said(failure: TargetFailed | QllmError) -> str:
    return f"a request failed: {failure.status.name}: {failure}" if isinstance(failure, QllmError) else str(failure)


def _failure(what: str, process: asyncio.subprocess.Process, log: Path | None) -> ServiceFailed:
    state = "still runs" if process.returncode is None else f"ended with exit code {process.returncode}"
    if log is None:
        return ServiceFailed(f"{what}; the service {state}")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return ServiceFailed("\n".join([f"{what}; the service {state}. Its log is {log} and ends with:", *lines]))


def free_port() -> int:
    """Returns a port of the loopback interface that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
