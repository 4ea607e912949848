"""A team of workers: standbys come after the first one serves, and none of them ends the service."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from scheduler_svc import supervisor, team
from scheduler_svc.supervisor import WorkerRefused, WorkerSupervisor
from scheduler_svc.team import WorkerTeam
from tests.support.channel.control_channel import eventually

SLEEP = "import time; time.sleep(600)"
REFUSES = "import sys; print('qllm-worker: no memory', file=sys.stderr); sys.exit(2)"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(supervisor, "_MAX_BACKOFF_S", 0.02)
    monkeypatch.setattr(team, "_RETRY_S", 0.02)


class Team:
    """A team whose workers run these programs, the first one's first."""

    def __init__(self, *programs: str) -> None:
        self.workers: list[WorkerSupervisor] = []
        self._programs = programs
        self.team = WorkerTeam(self._make, len(programs) - 1)

    def _make(self) -> WorkerSupervisor:
        command = (sys.executable, "-c", self._programs[len(self.workers)])
        supervisor = WorkerSupervisor("ipc:///tmp/x", "some/model", command=command, stop_grace_s=0.1, standstill_s=0.4)
        self.workers.append(supervisor)
        return self.workers[-1]

    @property
    def pids(self) -> list[int | None]:
        return [worker.pid for worker in self.workers]

    def join(self, number: int) -> None:
        pid = self.pids[number]
        assert pid is not None
        self.team.worker_joined(pid, "float32")


@asynccontextmanager
async def running(*programs: str) -> AsyncIterator[Team]:
    members = Team(*programs)
    task = asyncio.create_task(members.team.run())
    await eventually(lambda: members.pids[0] or task.done())
    yield members
    await members.team.close()
    await task


async def test_standbys_start_once_a_worker_serves() -> None:
    async with running(SLEEP, SLEEP) as members:
        await asyncio.sleep(0.05)
        assert members.pids[1] is None
        members.join(0)
        await eventually(lambda: members.pids[1])


async def test_a_worker_that_hangs_is_killed_and_the_others_are_not() -> None:
    async with running(SLEEP, SLEEP) as members:
        members.join(0)
        await eventually(lambda: members.pids[1])
        first, second = members.pids
        assert first is not None
        members.team.worker_hung(first)
        await eventually(lambda: members.pids[0] not in (first, None))
        assert members.pids[1] == second


async def test_a_standby_that_was_stopped_is_replaced_and_one_that_says_that_it_waits_is_not() -> None:
    async with running(SLEEP, SLEEP) as members:
        members.join(0)
        await eventually(lambda: members.pids[1])
        first, second = members.pids
        assert second is not None
        for _ in range(8):
            members.team.worker_waits(second)
            await asyncio.sleep(0.1)
        assert members.pids == [first, second]
        await eventually(lambda: members.pids[1] not in (second, None))
        assert members.pids[0] == first


async def test_a_worker_that_lost_its_connection_and_does_nothing_is_replaced() -> None:
    async with running(SLEEP) as members:
        members.join(0)
        (before,) = members.pids
        members.team.worker_lost()
        await eventually(lambda: members.pids[0] not in (before, None))


async def test_a_worker_that_somebody_else_started_is_none_of_ours() -> None:
    async with running(SLEEP) as members:
        before = members.pids
        members.team.worker_hung(1)
        await asyncio.sleep(0.05)
        assert members.pids == before


async def test_a_standby_that_cannot_start_is_tried_again_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with running(SLEEP, REFUSES) as members:
        members.join(0)
        await eventually(lambda: caplog.text.count("standby_not_started") >= 2)
        assert "no memory" in caplog.text
        assert members.pids[0] is not None


async def test_a_standby_for_which_there_is_no_memory_is_not_started(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team, "_number_in", lambda file, name: {"VmRSS:": 3 << 20, "MemAvailable:": 2 << 20}[name])
    async with running(SLEEP, SLEEP) as members:
        members.join(0)
        await eventually(lambda: "2048 MiB of memory are available" in caplog.text)
        assert members.pids[1] is None


async def test_a_first_worker_that_cannot_start_ends_the_start() -> None:
    with pytest.raises(WorkerRefused, match="no memory"):
        await Team(REFUSES, SLEEP).team.run()
