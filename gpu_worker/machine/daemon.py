"""A thread for work beside the engine's: one thing after the other, and nobody waits for it at the process's end."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Daemon:
    """Runs what it is given, in order. The thread begins with the first work, and dies with the process.

    Args:
        name: Of the thread.
        stack_bytes: Of its stack; 0 is what threads have.
    """

    def __init__(self, name: str, stack_bytes: int = 0) -> None:
        self._name = name
        self._stack_bytes = stack_bytes
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], Result]) -> "Future[Result]":
        """Returns what `work` will return or raise; cancelled before it begins, it is not run."""
        future: Future[Result] = Future()
        self._work.put((future, work))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            usual_bytes = threading.stack_size(self._stack_bytes)  # of threads that begin from now on
            try:
                self._thread.start()
            finally:
                threading.stack_size(usual_bytes)
        return future

    def _run(self) -> None:
        while True:
            future, work = self._work.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # whoever asked hears of it
                future.set_exception(error)
