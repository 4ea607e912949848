"""The fault matrix: every fault at every moment, on real processes, each cell with its verdict and its times."""

import fnmatch
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeAlias

from tests.faults import plans
from tests.faults.checker.verdict import Flaw
from tests.faults.harness.faults import FAULTS
from tests.faults.harness.job_store import StoreOfJobs, postgresql_store, sqlite_store
from tests.faults.harness.moments import MOMENTS
from tests.faults.harness.service import Service, Settings
from tests.faults.plans import References
from tests.faults.runs.cell import BOUNDS, Bounds, CellRun
from tests.faults.runs.cell_result import Cell, CellResult
from tests.support.jobs.postgresql import why_no_postgresql

# Draining must leave time for all streams to end; hung workers are given up soon.
OPTIONS = ("--hang-timeout-s", "2", "--grace-s", "20")
NewStore: TypeAlias = Callable[[], AbstractContextManager[StoreOfJobs]]
_LOST = (Flaw.LOST, Flaw.HUNG, Flaw.NO_LAST_MESSAGE)
_TWICE = (Flaw.ENDED_TWICE, Flaw.REPEATED, Flaw.TOKENS_TWICE)


def all_cells() -> list[Cell]:
    """Returns every cell that makes sense."""
    cells = [Cell(fault, moment) for fault in FAULTS.values() for moment in MOMENTS.values()]
    return [cell for cell in cells if cell.makes_sense]


def chosen(patterns: Sequence[str]) -> list[Cell]:
    """Returns the cells whose names match any of the patterns, such as worker-*@decode; all where there are none."""
    cells = all_cells()
    picked = [cell for cell in cells if any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in patterns)]
    if patterns and not picked:
        raise ValueError(f"cells: got {', '.join(patterns)}, which match none; --list names all of them")
    return picked if patterns else cells


async def run_matrix(
    cells: Iterable[Cell],
    settings: Settings,
    bounds: Bounds = BOUNDS,
    tell: Callable[[str], None] = lambda _: None,
) -> list[CellResult]:
    """Runs cells one after the other; those on the control channel, or a database, have a service of their own kind."""
    results: list[CellResult] = []
    groups: defaultdict[tuple[bool, bool], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.fault.on_control, cell.fault.on_database].append(cell)
    for (is_apart, on_database), group in sorted(groups.items()):
        new_store = postgresql_store if on_database and not why_no_postgresql() else sqlite_store
        async for result in _run_group(group, replace(settings, is_apart=is_apart), new_store, bounds):
            tell(line(result))
            results.append(result)
    return results


async def _run_group(
    cells: Sequence[Cell], settings: Settings, new_store: NewStore, bounds: Bounds
) -> AsyncIterator[CellResult]:
    """Runs cells on one service, and on another one after a cell that left it unable to serve."""
    left, references = [*cells], References()
    while left:
        with new_store() as store:
            async with Service(settings, store) as service:
                await references.learn(service.address, plans.OF_MOMENTS)
                serves = True
                while left and serves:
                    cell = left.pop(0)
                    result = await CellRun(cell, service, references, bounds, seed=len(left)).run()
                    serves = await _rests(service)
                    yield result


async def _rests(service: Service) -> bool:
    """Whether the service is as it was at its beginning; one that is not is given up."""
    loads = await service.loads() if service.is_running else None
    return loads is not None and loads.total_blocks > 0 and loads.free_blocks == loads.total_blocks


HEADER = (
    f"{'cell':34} {'requests':>8} {'lost':>5} {'twice':>5} {'gap':>4} {'wrong':>5} {'detect':>8} {'serve':>8}  verdict"
)


def line(result: CellResult) -> str:
    """Returns a row of the table."""
    if result.skipped:
        return f"{result.name:34} skipped: {result.skipped}"
    flaws = result.flaws
    wrong = flaws[Flaw.WRONG_TOKENS] + flaws[Flaw.TOKENS_MISSING] + flaws[Flaw.MISCOUNTED]
    numbers = (sum(flaws[flaw] for flaw in _LOST), sum(flaws[flaw] for flaw in _TWICE), flaws[Flaw.GAP], wrong)
    counts = "{:>5} {:>5} {:>4} {:>5}".format(*numbers)
    times = f"{seconds(result.detect_s):>8} {seconds(result.serve_again_s):>8}"
    return f"{result.name:34} {sum(result.outcomes.values()):>8} {counts} {times}  {_verdict(result)}"


def _verdict(result: CellResult) -> str:
    said = ["clean" if result.is_clean else "NOT CLEAN"]
    said += [f"{result.num_jobs} jobs"] if result.num_jobs else []
    said += [f"{count} {outcome}" for outcome, count in sorted(result.outcomes.items()) if outcome != "flawed"]
    return "; ".join([", ".join(said), *result.problems])


def seconds(time_s: float | None) -> str:
    """Returns a time in a few characters."""
    return "-" if time_s is None else f"{time_s:.3f} s"
