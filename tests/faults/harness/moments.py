"""The moments at which a fault hits: each begins requests of both classes and waits until the service stands there.

    idle         nothing runs                       offloaded   best-effort caches lie in host memory
    ls-prefill   a prompt of LS work is computed    loading     the worker has been killed, another one starts
    be-prefill   one of BE work stands in a layer   draining    the scheduler was told to end, streams go on
    decode       streams of both classes are open          committing  jobs are created, and outcomes recorded

Where the service stands is read from what it says of its loads (GetLoads), and from what clients have got.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from qllm.v1 import admin_pb2

from tests.faults import plans
from tests.faults.harness.scene import Scene, Unreachable
from tests.faults.harness.service import until
from tests.faults.records import Plan, Record

_BOUND_S = 30.0
_POLL_S = 0.004
_NUM_DECODED = 3
_NUM_JOBS = 5
_SETTLE_S = 0.2  # in which a request that is not to wait is refused


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment.

    Attributes:
        reach: Comes back when the service stands there; raises Unreachable if it can't be brought there.
        drains: Whether the scheduler has been told to end.
    """

    name: str
    reach: Callable[[Scene], Awaitable[None]]
    drains: bool = False


async def _idle(_: Scene) -> None:
    return


async def _ls_prefill(scene: Scene) -> None:
    records = _begin(scene, *plans.LS_PROMPTS)
    await _loads_say(scene, lambda loads: loads.latency_sensitive.running > 0 and not _any_token(records), records)


async def _be_prefill(scene: Scene) -> None:
    """A best-effort prompt has been stopped between two experts of a layer, by an arrival."""
    before = await scene.service.loads()
    records = _begin(scene, *plans.BE_PROMPTS)
    await _loads_say(scene, lambda loads: loads.best_effort.running > 0, records)
    _begin(scene, plans.ARRIVAL)
    num_before = before.num_preemptions_at_expert if before is not None else 0
    await _loads_say(scene, lambda loads: loads.num_preemptions_at_expert > num_before, records)


async def _decode(scene: Scene) -> None:
    records = _begin(scene, *plans.DECODES)
    await _wait(lambda: all(len(record.token_ids) >= _NUM_DECODED for record in records), records)


async def _offloaded(scene: Scene) -> None:
    fillers = _begin(scene, *plans.FILLERS)
    await _wait(lambda: sum(bool(record.messages) for record in fillers) > 1, fillers)
    _begin(scene, *plans.CROWDERS)
    await _loads_say(scene, lambda loads: loads.best_effort.offloaded > 0, fillers)


async def _loading(scene: Scene) -> None:
    before = scene.worker_pid()
    os.kill(before, signal.SIGKILL)
    if not await until(lambda: scene.service.worker_pid() not in (None, before), _BOUND_S):
        raise Unreachable("no other worker was started")
    _begin(scene, *plans.DECODES[:2])
    await asyncio.sleep(_SETTLE_S)


async def _draining(scene: Scene) -> None:
    await _decode(scene)
    scene.service.signal_scheduler(signal.SIGTERM)
    if not await until(lambda: "stopping grace_s" in scene.service.log_since_start, _BOUND_S):
        raise Unreachable("the scheduler does not stop")


async def _committing(scene: Scene) -> None:
    """Jobs come in without pause, some have ended, and two streams are open."""
    records = _begin(scene, *plans.DECODES[:2])
    scene.jobs.begin()
    await _loads_say(
        scene, lambda loads: scene.jobs.num_acknowledged > _NUM_JOBS and loads.best_effort.running > 1, records
    )


MOMENTS = {
    moment.name: moment
    for moment in (
        Moment("idle", _idle),
        Moment("ls-prefill", _ls_prefill),
        Moment("be-prefill", _be_prefill),
        Moment("decode", _decode),
        Moment("offloaded", _offloaded),
        Moment("loading", _loading),
        Moment("draining", _draining, drains=True),
        Moment("committing", _committing),
    )
}


def _begin(scene: Scene, *wanted: Plan) -> list[Record]:
    return [scene.clients.begin(plan) for plan in wanted]


def _any_token(records: list[Record]) -> bool:
    return any(record.first_token_s is not None for record in records)


async def _loads_say(
    scene: Scene, is_there: Callable[[admin_pb2.GetLoadsResponse], bool], records: list[Record]
) -> None:
    """Asks for the loads until they say so; raises Unreachable once all records have ended without that."""
    deadline_s = time.monotonic() + _BOUND_S
    while (loads := await scene.service.loads()) is None or not is_there(loads):
        if all(record.ended_s is not None for record in records) or time.monotonic() > deadline_s:
            raise Unreachable("the requests ended before the service stood there")
        await asyncio.sleep(_POLL_S)


async def _wait(is_there: Callable[[], bool], records: list[Record]) -> None:
    over = lambda: is_there() or any(record.ended_s is not None for record in records)  # noqa: E731
    await until(over, _BOUND_S, _POLL_S)
    if not is_there():
        raise Unreachable("the requests ended before the service stood there")
