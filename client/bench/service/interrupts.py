"""Ctrl-C and SIGTERM: the first one ends a measurement early, its results kept; any other ends the command at once."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
from qllm.client.bench.console import complain

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_EXIT_SIGNALLED = 128  # plus the signal's number, as shells have it: 130 after Ctrl-C


class Interrupts:
    """Listens for signals on behalf of the running task.

    Attributes:
        stop: Set by a signal inside `with keeping_results():`.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self._task = asyncio.current_task()
        self._signal: int | None = None
        self._keeps_results = False
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._take, number)

    @property
    def exit_code(self) -> int:
        """What the process ends with: 0 if no signal came."""
        return 0 if self._signal is None else _EXIT_SIGNALLED + self._signal

    @contextmanager
    def keeping_results(self) -> Iterator[None]:
        """Within the block, the first signal sets `stop` instead of cancelling the task."""
        self._keeps_results = True
        try:
            yield
        finally:
            self._keeps_results = False

    def _take(self, number: int) -> None:
        is_first, self._signal = self._signal is None, number
        if is_first and self._keeps_results:
            self.stop.set()
        elif self._task is not None:
            self._task.cancel()


class Interrupted(Exception):
    """A signal ended a command that had no results to keep.

    Attributes:
        exit_code: What the process is to end with.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"interrupted by a signal; exit code {exit_code}")
        self.exit_code = exit_code


def run_until_interrupted(command: Callable[[Interrupts], Coroutine[Any, Any, T]]) -> tuple[T, int]:
    """Runs a command's coroutine; returns its result and the exit code that signals make.

    Raises:
        Interrupted: A signal came while the command had no results to keep. Its coroutine was cancelled and has ended.
    """
    listening: list[Interrupts] = []

    async def listen_and_run() -> T:
        listening.append(Interrupts())
        return await command(listening[0])

    try:
        result = asyncio.run(listen_and_run())
    except asyncio.CancelledError:
        raise Interrupted(listening[0].exit_code) from None
    return result, listening[0].exit_code


def run_interruptibly(command: Callable[[Interrupts], Coroutine[Any, Any, T]]) -> tuple[T, int]:
    """Does as `run_until_interrupted`; ends the process with a message on stderr when the command is interrupted."""
    try:
        return run_until_interrupted(command)
    except Interrupted as interrupted:
        complain("interrupted; nothing was measured")
        raise typer.Exit(interrupted.exit_code) from None
