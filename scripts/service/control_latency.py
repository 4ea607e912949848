"""Measures the control channel between two processes, without a model.

python -m scripts.service.control_latency

The worker only answers. Commands go to it one by one and then pipelined: what is left is the channel's own cost.
"""

import asyncio
import time

from scheduler_svc.core.state.results import StepResult
from tests.support.channel.control_channel import RecordingListener, advance, ipc_endpoint, listening, worker_process

ROUND_TRIPS = 2_000
PIPELINED = 20_000
WINDOW = 16


class Pipeline(RecordingListener):
    """Calls back for each result, and remembers how long the worker was idle before it."""

    def __init__(self) -> None:
        super().__init__()
        self.idle_us: list[float] = []
        self.answered = asyncio.Event()
        self.on_result = self.answered.set

    def step_result(self, result: StepResult) -> None:
        """Notes how long the worker was idle, and calls back."""
        self.idle_us.append(result.idle_ns / 1e3)
        self.on_result()


def quantiles(values: list[float]) -> str:
    """Returns the values' middle and upper ends as text."""
    values = sorted(values)
    at = {name: values[int(share * (len(values) - 1))] for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    return ", ".join(f"{name} {value:.1f}" for name, value in at.items())


async def measure() -> None:
    """Prints round trips, the cost of a pipelined command, and the worker's gaps between queued commands."""
    with ipc_endpoint() as endpoint:
        async with listening(endpoint, pipeline := Pipeline()) as (link, _):
            with worker_process(endpoint):
                await pipeline.wait_for("joined")
                round_trips_us = []
                for number in range(1, ROUND_TRIPS + 1):
                    pipeline.answered.clear()
                    began_s = time.perf_counter()
                    link.send([advance(number)])
                    await pipeline.answered.wait()
                    round_trips_us.append(1e6 * (time.perf_counter() - began_s))
                print(f"round trip, us: {quantiles(round_trips_us)}")
                pipeline.idle_us.clear()
                num_sent, done = 0, asyncio.Event()

                def send_next() -> None:
                    nonlocal num_sent
                    if num_sent < PIPELINED:
                        num_sent += 1
                        link.send([advance(ROUND_TRIPS + num_sent)])
                    elif len(pipeline.idle_us) == PIPELINED:
                        done.set()

                pipeline.on_result = send_next
                began_s, began_cpu_s = time.perf_counter(), time.process_time()
                for _ in range(WINDOW):
                    send_next()
                await done.wait()
                wall_us, cpu_us = time.perf_counter() - began_s, time.process_time() - began_cpu_s
                wall_us, cpu_us = (1e6 * value / PIPELINED for value in (wall_us, cpu_us))
                times = f"{wall_us:.1f} us wall, {cpu_us:.1f} us of the scheduler's CPU"
                print(f"command and result, window {WINDOW}: {times}")
                print(f"worker's gap between queued commands, us: {quantiles(pipeline.idle_us)}")


if __name__ == "__main__":
    asyncio.run(measure())
