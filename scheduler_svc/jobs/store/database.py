"""Runs transactions away from the event loop: writes on one thread, in groups, and reads on a few others.

    write ─┐             ┌ while a group commits, what comes waits ┐
    write ─┼▶ one commit │ write ─┬▶ the next commit               │
    write ─┘             └ write ─┘                                ┘

A commit costs a flush of the disk whatever it holds, so what comes together shares one. Each write of a group stands or
falls by itself (a savepoint). Knows nothing of what is written.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, Generic, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, TimeoutError

from scheduler_svc.jobs.interface import StoreUnavailable
from scheduler_svc.jobs.store.engines import NUM_READERS, Engines

T = TypeVar("T")
Act: TypeAlias = Callable[[Connection], T]

_MOST_WAITING = 1000
_MOST_IN_GROUP = 64
_MOST_TRIES = 5
_CLOSES_WITHIN_S = 10.0
_OF_ONE_WRITE = (
    DataError,
    IntegrityError,
)  # what else a database says concerns all: it is away, full, or not as it was
_IS_TO_BE_TRIED_AGAIN = ("40001", "40P01")  # PostgreSQL ended it for the sake of another: serialization, deadlock


@dataclass(slots=True, eq=False)
class _Write(Generic[T]):
    """A write that waits, and who waits for it; it may be run again after a failure, each time in a new transaction."""

    act: Act[T]
    future: asyncio.Future[T]

    def resolve(self, outcome: T | Exception) -> None:
        """Tells whoever waits for it, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self.future.get_loop().call_soon_threadsafe(self._resolve, outcome)

    def _resolve(self, outcome: T | Exception) -> None:
        if self.future.done():  # whoever waited was cancelled
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Database:
    """A database's transactions, awaited.

    Args:
        engines: Connect to it; closed with this.
        prepare: Called once before anything else, from the thread that writes, and again until it succeeds.
    """

    def __init__(self, engines: Engines, prepare: Callable[[], None]) -> None:
        self._engines = engines
        self._prepare = prepare
        self._is_prepared = False
        self._waiting: deque[_Write[Any]] = deque()
        self._changed = Condition()
        self._is_closed = False
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="jobs-read")
        self._writer = Thread(target=self._write_groups, name="jobs-write", daemon=True)
        self._writer.start()

    async def write(self, act: Act[T]) -> T:
        """Runs a transaction that writes; returns after its commit what `act` returned, or raises what it raised.

        It may share its transaction with others, and be run more than once of which one counts. It is carried out
        though whoever waits for it be cancelled.

        Raises:
            StoreUnavailable: The database can't be reached or written. If the connection broke while it was
                committed, it may be in the database all the same.
        """
        write: _Write[T] = _Write(act, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._is_closed:
                raise StoreUnavailable("the store of jobs is closed")
            if len(self._waiting) >= _MOST_WAITING:
                raise StoreUnavailable(f"{_MOST_WAITING} changes wait for the store of jobs, which is the limit")
            self._waiting.append(write)
            self._changed.notify()
        return await write.future

    async def read(self, act: Act[T]) -> T:
        """Runs a transaction that only reads; raises StoreUnavailable if the database can't be reached."""
        if not self._is_prepared:
            await self.write(lambda _: None)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, act)
        except RuntimeError as error:
            if not self._is_closed:
                raise
            raise StoreUnavailable("the store of jobs is closed") from error

    async def close(self) -> None:
        """Carries out the writes that wait, unless that takes long, and closes the connections."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        await asyncio.to_thread(self._writer.join, _CLOSES_WITHIN_S)
        self._readers.shutdown(wait=False)
        self._engines.dispose()

    def _read(self, act: Act[T]) -> T:
        try:
            with self._engines.reading.connect() as connection:
                return act(connection)
        except (DBAPIError, TimeoutError) as error:
            if isinstance(error, _OF_ONE_WRITE):
                raise
            raise _unavailable(error) from error

    # ---- the thread that writes

    def _write_groups(self) -> None:
        while group := self._next_group():
            for write, outcome in zip(group, self._commit(group), strict=True):
                write.resolve(outcome)

    def _next_group(self) -> list[_Write[Any]]:
        """Waits for writes and takes them; returns an empty list once this is closed and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            return [self._waiting.popleft() for _ in range(min(_MOST_IN_GROUP, len(self._waiting)))]

    def _commit(self, group: list[_Write[Any]]) -> list[Any]:
        """Returns what each write of a group returned or raised."""
        try:
            if not self._is_prepared:
                self._prepare()
                self._is_prepared = True
            connection = self._engines.writing.connect()
        except DBAPIError as error:
            return [_unavailable(error) for _ in group]
        except Exception as error:  # of `prepare`, or a defect: whoever waits has to hear of it
            return [error for _ in group]
        with connection:
            return _commit_over(connection, group)


def _commit_over(connection: Connection, group: list[_Write[Any]]) -> list[Any]:
    """Runs a group in one transaction, or, where one of them makes all fail, each in its own."""
    try:
        return _try_together(connection, group)
    except DBAPIError as error:
        if len(group) == 1 or error.connection_invalidated:
            return [_unavailable(error) for _ in group]
    except Exception as error:
        return [error for _ in group]
    return [outcome for write in group for outcome in _commit_over(connection, [write])]


def _try_together(connection: Connection, group: list[_Write[Any]]) -> list[Any]:
    """Runs a group in one transaction; raises DBAPIError if that did not come to its end."""
    for tries_left in reversed(range(_MOST_TRIES)):
        try:
            with connection.begin():
                return [_apart(connection, write.act) for write in group]
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _IS_TO_BE_TRIED_AGAIN or not tries_left:
                raise
    raise AssertionError("unreachable")


def _apart(connection: Connection, act: Act[T]) -> T | Exception:
    """Runs one write of a group; returns its error, after which the others go on, unless it concerns all of them."""
    try:
        with connection.begin_nested():
            return act(connection)
    except DBAPIError as error:
        if isinstance(error, _OF_ONE_WRITE):
            return error
        raise
    except Exception as error:
        return error


def _unavailable(error: Exception) -> StoreUnavailable:
    """Returns what is told of an error of the database: its first line, without the statement and its values."""
    cause: BaseException = error
    while (context := cause.__context__) is not None:  # the first error: after a full disk there is no savepoint either
        cause = context
    return StoreUnavailable(f"the store of jobs can't be used: {str(cause).strip().partition(chr(10))[0]}")
