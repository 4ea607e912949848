"""The faults: each does one bad thing to a scene and says what clients may notice of it.

    streams go on        worker-*, *-pause, *-hold, disk-full, database-gone, others' cancels and slow readers
    streams may end      scheduler-kill, scheduler-term, connections-cut: a request lives with its connection

There is no clock jump: nothing that the service decides looks at the clock of the wall, which a test proves.
"""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults import plans
from tests.faults.harness.process_usage import children_of, is_alive, is_worker
from tests.faults.harness.scene import Scene
from tests.faults.records import Manner
from tests.support.channel.control_channel import ROOT, python_path
from tests.support.jobs.postgresql import why_no_postgresql

_SHORT_S = 0.5  # less than any time after which somebody counts as gone
_SLOW_READER = Manner(pause_s=1.5)


@dataclass(frozen=True, slots=True)
class Fault:
    """One bad thing.

    Attributes:
        inject: Does it, and undoes what passes by itself.
        ends_streams: Whether streams may end with it, with UNAVAILABLE; otherwise they go on.
        exit_codes: What the scheduler may end with; empty: it does not end.
        on_control: Whether it is done to the channel between scheduler and worker.
        on_database: Whether it is done to a database, in which jobs are then.
        why_not: Says why it can't be had here; empty: it can.
    """

    name: str
    inject: Callable[[Scene], Awaitable[None]]
    ends_streams: bool = False
    exit_codes: tuple[int, ...] = ()
    on_control: bool = False
    on_database: bool = False
    why_not: Callable[[], str] = str


def _signal_worker(number: signal.Signals) -> Callable[[Scene], Awaitable[None]]:
    async def inject(scene: Scene) -> None:
        os.kill(scene.worker_pid(), number)

    return inject


async def _hold_engine(scene: Scene) -> None:
    """Has the worker's engine stand still while its link beats, as a kernel without an end does."""
    await asyncio.to_thread(_hold_first_thread, scene.worker_pid())


def _hold_first_thread(pid: int) -> None:
    command = [sys.executable, "-m", "tests.faults.harness.stuck", str(pid)]
    holder = subprocess.Popen(command, cwd=ROOT, env=python_path(), stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline(), "the worker could not be held"
    threading.Thread(target=holder.communicate, daemon=True).start()  # it ends with the worker


def _no_tracing() -> str:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    may = os.geteuid() == 0 or not scope.exists() or scope.read_text().strip() == "0"
    return "" if may else f"no right to hold a thread of another process: {scope} is not 0"


def _signal_scheduler(number: signal.Signals) -> Callable[[Scene], Awaitable[None]]:
    async def inject(scene: Scene) -> None:
        scene.service.signal_scheduler(number)

    return inject


async def _pause_worker(scene: Scene) -> None:
    pid = scene.worker_pid()
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(_SHORT_S)
    os.kill(pid, signal.SIGCONT)


async def _pause_scheduler(scene: Scene) -> None:
    scene.service.signal_scheduler(signal.SIGSTOP)
    await asyncio.sleep(_SHORT_S)
    scene.service.signal_scheduler(signal.SIGCONT)


async def _cut_connections(scene: Scene) -> None:
    scene.front.cut()


async def _hold_connections(scene: Scene) -> None:
    scene.front.hold()
    await asyncio.sleep(_SHORT_S)
    scene.front.release()


async def _cut_control(scene: Scene) -> None:
    assert scene.service.control_proxy is not None
    scene.service.control_proxy.cut()


async def _hold_control(scene: Scene) -> None:
    assert scene.service.control_proxy is not None
    scene.service.control_proxy.hold()
    await asyncio.sleep(_SHORT_S)
    scene.service.control_proxy.release()


async def _fill_disk(scene: Scene) -> None:
    """Lets no process of the service write to a file for a while: to each of them its disk is full."""
    own = scene.service.scheduler_pid
    pids = [own, *(pid for pid in children_of(own) if is_worker(pid))]
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    await asyncio.sleep(2 * _SHORT_S)
    for pid, limits in before.items():
        if is_alive(pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


async def _kill_database(scene: Scene) -> None:
    """Ends the database as a crash does, and starts it again after a while."""
    assert scene.service.store is not None
    await scene.service.store.restart(2 * _SHORT_S)


async def _cancel_half(scene: Scene) -> None:
    there = scene.clients.open_records
    for record in scene.rng.sample(there, len(there) // 2):
        scene.clients.leave(record)


async def _read_slowly(scene: Scene) -> None:
    for plan in plans.DECODES[:2]:
        scene.clients.begin(plan, _SLOW_READER)


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("worker-kill", _signal_worker(signal.SIGKILL)),
        Fault("worker-term", _signal_worker(signal.SIGTERM)),
        Fault("worker-hang", _signal_worker(signal.SIGSTOP)),
        Fault("worker-stuck", _hold_engine, why_not=_no_tracing),
        Fault("worker-pause", _pause_worker),
        Fault("scheduler-kill", _signal_scheduler(signal.SIGKILL), ends_streams=True, exit_codes=(-signal.SIGKILL,)),
        Fault("scheduler-term", _signal_scheduler(signal.SIGTERM), ends_streams=True, exit_codes=(0,)),
        Fault("scheduler-pause", _pause_scheduler),
        Fault("connections-cut", _cut_connections, ends_streams=True),
        Fault("connections-hold", _hold_connections),
        Fault("control-cut", _cut_control, on_control=True),
        Fault("control-hold", _hold_control, on_control=True),
        Fault("disk-full", _fill_disk),
        Fault("database-gone", _kill_database, on_database=True, why_not=why_no_postgresql),
        Fault("cancels", _cancel_half),
        Fault("slow-readers", _read_slowly),
    )
}
