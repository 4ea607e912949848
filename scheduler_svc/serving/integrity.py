"""Checks the books of memory on demand: the core's by themselves, the worker's by its own word, and one with the other.

    core's books ──┐ read when CheckIntegrity is sent, behind all that the core decided before
                   ├──▶ problems
    worker's ──────┘ reported once the worker has carried out what came before

Changes nothing, and never raises: what can't be checked is a problem too. The core does nothing else while its books
are read, which takes it 5 to 10 ms for each 10,000 blocks of the cache: so there is one check at a time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from scheduler_svc.core.cache.block_pool import IntegrityError
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.state.commands import CheckIntegrity, Command
from scheduler_svc.core.state.results import IntegrityReport
from scheduler_svc.core.state.sequence import Tier
from scheduler_svc.generation import IntegrityCheck

TIMEOUT_S = 5.0
MAX_PROBLEM_CHARS = 500
_TRIES, _RETRY_S = 3, 0.1
_NAMES = {
    "num_sequences": "sequences that the worker knows",
    "num_held_blocks": "blocks held on the device",
    "num_host_blocks": "blocks in host memory",
    "num_disk_blocks": "blocks on disk",
}

NO_WORKER = IntegrityCheck(("no worker is connected, so there is nothing to check",))


@dataclass(frozen=True, slots=True)
class Books:
    """What the core says of memory at one moment.

    Attributes:
        problems: What contradicts itself in it.
        counts: What the worker has to count as well, by the fields of its report.
    """

    problems: tuple[str, ...]
    counts: Mapping[str, int]


def read_books(scheduler: Scheduler) -> Books:
    """Returns the core's books."""
    try:
        scheduler.check_integrity()
        problems: tuple[str, ...] = ()
    except IntegrityError as error:
        problems = (f"the scheduler's books: {error}",)
    sequences = [*scheduler.sequences, *(kept.sequence for kept in scheduler.sessions.victims())]
    moved = {tier: sum(one.num_host_blocks for one in sequences if one.tier is tier) for tier in Tier}
    counts = {
        "num_sequences": sum(sequence.known_to_worker for sequence in sequences),
        "num_held_blocks": scheduler.memory.pool.num_held,
        "num_host_blocks": moved[Tier.HOST],
        "num_disk_blocks": moved[Tier.DISK],
    }
    return Books(problems, counts)


def compare(books: Books, report: IntegrityReport) -> IntegrityCheck:
    """Returns what contradicts what."""
    problems = [*books.problems]
    if report.problem:
        problems.append(f"the worker's books: {report.problem[:MAX_PROBLEM_CHARS]}")
    for field, counted in books.counts.items():
        reported = getattr(report, field)
        if reported != counted:
            problems.append(f"{_NAMES[field]}: {counted} by the scheduler's books, {reported} by the worker's")
    return IntegrityCheck(tuple(problems), report.num_held_blocks, report.num_sequences)


class IntegrityChecks:
    """The checks under way.

    Args:
        send: Hands commands to the worker, in order, without waiting.
        timeout_s: Seconds that a check waits for the worker.
    """

    def __init__(self, send: Callable[[Sequence[Command]], object], timeout_s: float = TIMEOUT_S) -> None:
        self._send = send
        self._timeout_s = timeout_s
        self._check_ids = count(1)
        self._waiting: dict[int, asyncio.Future[IntegrityReport | None]] = {}
        self._under_way: asyncio.Task[IntegrityCheck] | None = None
        self._num_askers = 0

    async def run(self, read: Callable[[], Books | None]) -> IntegrityCheck:
        """Checks the books of both sides; whoever asks while that is under way is given the same result.

        Args:
            read: Sends what the core has decided and returns its books; None if there is no worker.
        """
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._run(read))
        check = self._under_way
        self._num_askers += 1
        try:
            return await asyncio.shield(check)
        finally:
            self._num_askers -= 1
            if not self._num_askers:
                self._under_way = None
                check.cancel()

    def reported(self, report: IntegrityReport) -> None:
        """Takes in what the worker found; nothing happens if nobody waits for it any more."""
        waiting = self._waiting.get(report.check_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(report)

    def worker_lost(self) -> None:
        """Ends the checks that wait for a worker that is gone."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)

    async def _run(self, read: Callable[[], Books | None]) -> IntegrityCheck:
        """Checks until the books agree, a few times at most.

        A sequence that ended in the worker may hold a block here that it was never given there, until its end is
        known; and a cache that could not be moved is lost there before that is known here. So books that differ are
        compared anew, a little later; but not where the worker gave no answer in time.
        """
        until_s = asyncio.get_running_loop().time() + self._timeout_s
        check = await self._check(read, until_s)
        for _ in range(_TRIES - 1):
            if not check.problems or asyncio.get_running_loop().time() >= until_s:
                break
            await asyncio.sleep(_RETRY_S)
            check = await self._check(read, until_s)
        return check

    async def _check(self, read: Callable[[], Books | None], until_s: float) -> IntegrityCheck:
        books = read()
        if books is None:
            return NO_WORKER
        try:
            async with asyncio.timeout_at(until_s):
                report = await self._ask()
        except TimeoutError:
            return IntegrityCheck((*books.problems, f"the worker did not answer within {self._timeout_s:g} s"))
        if report is None:
            return IntegrityCheck((*books.problems, "the worker was lost before it answered"))
        return compare(books, report)

    async def _ask(self) -> IntegrityReport | None:
        """Returns what the worker holds; None if it went away."""
        check_id = next(self._check_ids)
        waiting: asyncio.Future[IntegrityReport | None] = asyncio.get_running_loop().create_future()
        self._waiting[check_id] = waiting
        try:
            self._send([CheckIntegrity(check_id)])
            return await waiting
        finally:
            del self._waiting[check_id]
