"""Starts the real service as its own processes and stops it again. Knows nothing of loads and pictures."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from client import AsyncClient, QllmError

T = TypeVar("T")

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.2
_DEATH_S = 3.0
_LOG_TAIL_LINES = 15


class ServiceFailed(Exception):
    """The service did not come up, ended, or failed a request; the message holds the end of its log."""


class Terminated(Exception):
    """This process was asked to end by SIGTERM."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine; Ctrl-C and SIGTERM cancel it first, so that no service is left behind.

    Raises:
        KeyboardInterrupt: After Ctrl-C.
        Terminated: After SIGTERM.
    """

    async def run_until_sigterm() -> T:
        running = asyncio.ensure_future(main)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        return await running

    try:
        return asyncio.run(run_until_sigterm())
    except asyncio.CancelledError:
        raise Terminated("the process was asked to end") from None


@asynccontextmanager
async def running_service(
    model: str,
    policy: str,
    *,
    options: Sequence[str] = (),
    worker_options: Sequence[str] = (),
    on_wait: Callable[[float], None] = lambda waited_s: None,
) -> AsyncIterator[AsyncClient]:
    """Runs a scheduler with its worker on a free port, and yields a client once the service serves.

    Args:
        model: Directory or hub id of the model.
        policy: Scheduling policy by name.
        options: Further command-line options of the scheduler.
        worker_options: Command-line options of the worker.
        on_wait: Called every so often, with the seconds waited, until the service serves.

    Raises:
        ServiceFailed: The service did not come up, ended, or failed a request. Its log is kept, and named.
    """
    port = free_port()
    arguments = ("--model", model, "--spawn-worker", "--policy", policy, "--grpc-port", str(port), *options)
    with _log_file() as log:
        process = await _start((*arguments, "--", *worker_options), log)
        try:
            async with AsyncClient(f"127.0.0.1:{port}") as client:
                await _wait_until_serving(client, process, log, on_wait)
                yield client
        except (QllmError, ExceptionGroup) as error:
            cause = first_failure(error)
            if not isinstance(cause, QllmError):
                raise
            with suppress(TimeoutError):  # calls may fail a moment before the process ends
                await asyncio.wait_for(process.wait(), _DEATH_S)
            raise _failure(f"a request failed: {cause.status.name}: {cause}", process, log) from error
        finally:
            await _stop(process)


async def _start(arguments: Sequence[str], log: IO[bytes]) -> asyncio.subprocess.Process:
    """Starts a scheduler in a session of its own: Ctrl-C reaches this process only, which then stops both in order."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scheduler_svc", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


async def _wait_until_serving(
    client: AsyncClient, process: asyncio.subprocess.Process, log: IO[bytes], on_wait: Callable[[float], None]
) -> None:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    while not await _serves(client):
        waited_s = loop.time() - started_s
        if process.returncode is not None:
            raise _failure("it never served", process, log)
        if waited_s > START_TIMEOUT_S:
            raise _failure(f"it did not serve within {START_TIMEOUT_S:.0f} s", process, log)
        on_wait(waited_s)
        await asyncio.sleep(_POLL_S)


async def _serves(client: AsyncClient) -> bool:
    try:
        return await client.health()
    except QllmError:
        return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Asks the scheduler to stop its worker and end; ends the whole session by force if that takes too long."""
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def first_failure(failure: Exception) -> Exception:
    """Returns the failure, or the first one inside nested groups."""
    while isinstance(failure, ExceptionGroup):
        failure = failure.exceptions[0]
    return failure


@contextmanager
def _log_file() -> Iterator[IO[bytes]]:
    """Yields a file that stays only if the service fails."""
    is_kept = False
    with tempfile.NamedTemporaryFile(prefix="qllm-service-", suffix=".log", delete=False) as log:
        try:
            yield log
        except ServiceFailed:
            is_kept = True
            raise
        finally:
            if not is_kept:
                Path(log.name).unlink()


def _failure(what: str, process: asyncio.subprocess.Process, log: IO[bytes]) -> ServiceFailed:
    state = "still runs" if process.returncode is None else f"ended with exit code {process.returncode}"
    lines = Path(log.name).read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return ServiceFailed("\n".join([f"{what}; the service {state}. Its log is {log.name} and ends with:", *lines]))


def free_port() -> int:
    """Returns a port of the loopback interface that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
