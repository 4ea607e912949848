"""One server under a load that goes on while the number of its best-effort clients changes: windows at each level.

    clients     0             1                         2
                |-- warm-up --|== window ==|== window ==|- last answers -|-- settling --|-- warm-up --|== window == ...

Settling waits until clients who are too many have had their answers, and until latency-sensitive requests of the last
level have ended, so that a level pays for nothing but itself. Does not know what the windows are good for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from qllm.client.bench.errors import TargetFailed
from qllm.client.bench.load.measurement import Measurement, Window
from qllm.client.bench.load.record import RequestRecord
from qllm.client.bench.load.run import Plan, Watch
from qllm.client.bench.load.workload import BE, LS, Crowd


class Levels:
    """Measures windows of a load, level by level.

    Args:
        plan: How long everything takes.
        crowd: The best-effort clients of its workload.
        watch: The load, which runs.
    """

    def __init__(self, plan: Plan, crowd: Crowd, watch: Watch) -> None:
        self._plan = plan
        self._crowd = crowd
        self._watch = watch
        self._level: int | None = None

    async def measure(self, num_be_clients: int, num_windows: int) -> list[Measurement]:
        """Returns so many windows with so many clients.

        Once the watch's `stop` is set, it returns those whose latency-sensitive requests had all ended.

        Raises:
            TargetFailed: The target said of a request that the load is to end, or the last level did not end in time.
        """
        if num_be_clients != self._level:
            await self._settle(num_be_clients)
        windows = await self._windows(num_windows)
        records = self._watch.load.records
        if windows:
            last_s = windows[-1].end_s + self._plan.drain_s
            is_over = await self._watch.until(
                "waiting for the last answers", last_s, lambda: all(_have_ended(records, window) for window in windows)
            )
            if is_over:
                windows = [window for window in windows if _have_ended(records, window)]
        return [self._measurement(window) for window in windows]

    async def _settle(self, num_be_clients: int) -> None:
        load, until = self._watch.load, self._watch.until
        self._level, changed_s = num_be_clients, load.now_s()
        self._crowd.resize(num_be_clients)
        before = Window(self._watch.start_s, changed_s)

        def has_settled() -> bool:
            return load.num_in_flight[BE] <= num_be_clients and _have_ended(load.records, before)

        is_stopped = await until("settling", changed_s + self._plan.drain_s, has_settled)
        if not is_stopped and not has_settled():
            raise TargetFailed(f"requests of the last level had no answer within --drain, {self._plan.drain_s:g} s")
        await until("warm-up load", load.now_s() + self._plan.warm_up_s)

    async def _windows(self, count: int) -> list[Window]:
        """Lets windows pass, one right after the other; returns those that are whole."""
        windows: list[Window] = []
        for number in range(count):
            start_s = windows[-1].end_s if windows else self._watch.load.now_s()
            window = Window(start_s, start_s + self._plan.seconds)
            if await self._watch.until(f"window {number + 1} of {count}", window.end_s):
                break
            windows.append(window)
        return windows

    def _measurement(self, window: Window) -> Measurement:
        load = self._watch.load
        records = [_as_given_up(record, load.now_s()) for record in load.records]
        return Measurement.of((), records, window, {}, load.messages)


def _have_ended(records: Sequence[RequestRecord], window: Window) -> bool:
    """Whether the latency-sensitive requests that were to be sent in the window have ended."""
    return all(record.ended_s is not None for record in _ls_of(records, window))


def _ls_of(records: Iterable[RequestRecord], window: Window) -> Iterable[RequestRecord]:
    return (record for record in records if record.request_class is LS and window.holds(record.intended_s))


def _as_given_up(record: RequestRecord, now_s: float) -> RequestRecord:
    """Returns a request as if nobody waited for it any longer; the load, which goes on, still does."""
    return record if record.ended_s is not None else replace(record, ended_s=now_s)
