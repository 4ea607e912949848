"""Some cells of the fault matrix, on one service without a model; `python -m tests.faults matrix` runs all of them."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from tests.faults import plans
from tests.faults.harness.job_store import postgresql_store, sqlite_store
from tests.faults.harness.service import Service, Settings
from tests.faults.plans import References
from tests.faults.runs.cell import CellRun
from tests.faults.runs.cell_result import CellResult
from tests.faults.runs.matrix import OPTIONS, NewStore, all_cells, chosen, line
from tests.support.jobs.postgresql import why_no_postgresql

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TODAY = (
    "worker-kill@idle",
    "worker-pause@decode",
    "scheduler-kill@decode",
    "scheduler-term@be-prefill",
    "scheduler-pause@ls-prefill",
    "connections-cut@decode",
    "connections-hold@be-prefill",
    "cancels@offloaded",
    "slow-readers@decode",
    "disk-full@decode",
    "scheduler-kill@committing",
    "disk-full@committing",
)
OF_DATABASES = ("database-gone@committing", "database-gone@decode")
ONCE_WORKERS_ARE_REPLACED_UNNOTICED = (
    "worker-kill@ls-prefill",
    "worker-kill@be-prefill",
    "worker-kill@decode",
    "worker-kill@offloaded",
    "worker-hang@decode",
    "worker-stuck@decode",
)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


class Bench:
    """A service for all cells; the next cell has another one where one cell left it in no state to serve."""

    def __init__(self, runner: asyncio.Runner, new_store: NewStore = sqlite_store) -> None:
        self._runner = runner
        self._new_store = new_store
        self._stack = AsyncExitStack()
        self._service: Service | None = None
        self._references = References()

    def run(self, name: str) -> CellResult:
        return self._runner.run(self._run(name))

    async def _run(self, name: str) -> CellResult:
        if self._service is None:
            store = self._stack.enter_context(self._new_store())
            self._service = await self._stack.enter_async_context(Service(Settings(options=OPTIONS), store))
            await self._references.learn(self._service.address, plans.OF_MOMENTS)
        (cell,) = chosen([name])
        result = await CellRun(cell, self._service, self._references).run()
        if result.problems:
            await self._close()
        return result

    async def _close(self) -> None:
        self._service = None
        await self._stack.aclose()

    def close(self) -> None:
        self._runner.run(self._close())


@pytest.fixture(scope="module")
def bench(runner: asyncio.Runner) -> Iterator[Bench]:
    bench = Bench(runner)
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def bench_on_postgresql(runner: asyncio.Runner) -> Iterator[Bench]:
    if why_not := why_no_postgresql():
        pytest.skip(why_not)
    bench = Bench(runner, postgresql_store)
    yield bench
    bench.close()


def assert_clean(result: CellResult) -> None:
    assert not result.skipped, result.skipped
    assert result.is_clean, "\n".join([line(result), *result.problems, *result.examples])
    assert result.serve_again_s is not None


@pytest.mark.parametrize("name", TODAY)
def test_nothing_is_lost_twice_or_wrong(bench: Bench, name: str) -> None:
    assert_clean(bench.run(name))


@pytest.mark.parametrize("name", OF_DATABASES)
def test_a_database_that_is_gone_costs_no_stream_and_no_job(bench_on_postgresql: Bench, name: str) -> None:
    assert_clean(bench_on_postgresql.run(name))


@pytest.mark.parametrize("name", ONCE_WORKERS_ARE_REPLACED_UNNOTICED)
def test_streams_outlive_their_worker(bench: Bench, name: str) -> None:
    (cell,) = chosen([name])
    if why_not := cell.fault.why_not():
        pytest.skip(why_not)
    assert_clean(bench.run(name))


def test_there_are_more_than_forty_cells_and_each_can_be_asked_for() -> None:
    names = [cell.name for cell in all_cells()]
    assert len(names) == len(set(names)) >= 40
    assert [cell.name for cell in chosen(["worker-kill@*"])] == [
        name for name in names if name.startswith("worker-kill@")
    ]
    with pytest.raises(ValueError, match="match none"):
        chosen(["worker-kiss@*"])
