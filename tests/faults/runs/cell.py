"""One cell of the fault matrix: brings a service to a moment, lets a fault happen, and has every record judged.

reach the moment ── fault ── first sign ── first token of a new request ── all requests ended ── books checked
                     └─ time to detect ┘ └──────── time to serve again (both from the fault) ┘
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.faults import plans
from tests.faults.checker.times import Sign, time_to_detect, time_to_serve_again
from tests.faults.checker.verdict import Span, judge
from tests.faults.harness.clients import Clients
from tests.faults.harness.job_load import JobLoad
from tests.faults.harness.proxy import Proxy
from tests.faults.harness.scene import Scene, Unreachable
from tests.faults.harness.service import Service, until
from tests.faults.harness.watch import Watch
from tests.faults.plans import References
from tests.faults.records import Record
from tests.faults.runs.cell_result import Cell, CellResult

_PROBE_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long things may take before they count as never.

    Attributes:
        serve_s: From a fault until a new request has a token.
        end_s: From then until every request has ended.
    """

    serve_s: float = 60.0
    end_s: float = 30.0


BOUNDS = Bounds()


class CellRun:
    """A run of one cell on a service that serves; afterwards it serves again, or the result says that it does not.

    Args:
        references: Know the plans of all moments.
        bounds: How long things may take.
        seed: Decides what the cell leaves to chance.
    """

    def __init__(
        self, cell: Cell, service: Service, references: References, bounds: Bounds = BOUNDS, seed: int = 0
    ) -> None:
        self._cell = cell
        self._service = service
        self._references = references
        self._bounds = bounds
        self._rng = random.Random(seed)
        self._exits: list[int | None] = []
        self._result = CellResult(cell.name, skipped=cell.fault.why_not())

    async def run(self) -> CellResult:
        """Runs it, and returns what became of it."""
        if not self._result.skipped:
            await self._act()
            await self._judge_service()
        return self._result

    async def _act(self) -> None:
        service = self._service
        async with (
            Proxy("127.0.0.1:0", service.address) as front,
            Clients(front.address) as clients,
            JobLoad(front.address, self._rng) as jobs,
            Watch(service) as watch,
            self._kept_running(),
        ):
            scene = Scene(service, front, clients, jobs, self._rng)
            try:
                await self._cell.moment.reach(scene)
            except Unreachable as why:
                self._result.skipped = str(why)
                return
            fault_s = time.monotonic()
            probing = asyncio.create_task(self._probe())
            await self._cell.fault.inject(scene)
            probes = await probing
            await clients.all_ended(self._bounds.end_s)
            await self._judge_exit()
            await self._judge_jobs(jobs)
            self._judge_records(fault_s, clients.records, probes)
            self._result.detect_s = time_to_detect([*watch.signs, *_ends(clients.records, fault_s)], fault_s)

    async def _probe(self) -> list[Record]:
        """Asks again and again, each time anew, until a request has a token; returns all that were asked."""
        async with Clients(self._service.address) as clients:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._bounds.serve_s):
                    while (await clients.ask(plans.PROBE)).first_token_s is None:  # noqa: ASYNC110 - nothing tells
                        await asyncio.sleep(_PROBE_PAUSE_S)
            return clients.records

    @asynccontextmanager
    async def _kept_running(self) -> AsyncIterator[None]:
        """Starts a scheduler again whenever one has ended, and notes how it did."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(_PROBE_PAUSE_S)
                if not self._service.is_running:
                    self._exits.append(self._service.exit_code)
                    await self._service.start_scheduler()

        keeping = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError, TimeoutError, ProcessLookupError):
                await keeping

    # ---- what became of it

    def _judge_records(self, fault_s: float, records: Sequence[Record], probes: Sequence[Record]) -> None:
        result = self._result
        result.serve_again_s = time_to_serve_again(probes, fault_s)
        if result.serve_again_s is None:
            result.problems.append("no new request got a token within the bound")
        until_s = float("inf") if result.serve_again_s is None else fault_s + result.serve_again_s
        spans = [Span(fault_s, until_s, self._cell.fault.ends_streams)]
        answered = [probe for probe in probes if probe.status == "OK"]
        for record in (*records, *answered):
            result.add(record, judge(record, self._references.of(record.plan), spans), fault_s)

    async def _judge_jobs(self, jobs: JobLoad) -> None:
        """Jobs that were asked for are done, each once."""
        if jobs.records:
            verdict = await jobs.judged(self._references, self._bounds.serve_s)
            self._result.num_jobs = verdict.num_acknowledged
            self._result.problems += [f"{count} jobs {flaw}" for flaw, count in sorted(verdict.flaws.items())]
            self._result.examples += verdict.examples

    async def _judge_exit(self) -> None:
        """A scheduler that was told to end does, with the right code; no other one ends."""
        allowed = self._cell.exit_codes
        if allowed and not await until(lambda: self._exits, self._bounds.end_s):
            self._result.problems.append("the scheduler did not end")
        self._result.problems += [
            f"the scheduler ended with {code}, allowed is {sorted(allowed) or 'not to end'}"
            for code in self._exits
            if code not in allowed
        ]

    async def _judge_service(self) -> None:
        """The service serves, and holds nothing for requests that are over."""
        problems = self._result.problems
        try:
            await self._service.wait_until_serving(self._bounds.serve_s)
        except (TimeoutError, ProcessLookupError) as error:
            problems.append(f"it does not serve any more: {str(error).splitlines()[0]}")
            return
        deadline_s = time.monotonic() + self._bounds.end_s
        while (loads := await self._service.loads(check=True)) is None or loads.free_blocks != loads.total_blocks:
            if time.monotonic() > deadline_s:
                held = "no answer" if loads is None else f"{loads.total_blocks - loads.free_blocks} blocks held"
                problems.append(f"after all requests ended: {held}")
                return
            await asyncio.sleep(0.1)
        problems += [f"books: {problem}" for problem in loads.check.problems]


def _ends(records: Sequence[Record], fault_s: float) -> list[Sign]:
    """A stream that ends with an error is a sign too."""
    return [
        Sign(record.ended_s, "a stream ended")
        for record in records
        if record.ended_s is not None and record.sent_s < fault_s and record.status not in ("OK", "CANCELLED")
    ]
