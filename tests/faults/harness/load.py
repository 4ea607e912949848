"""Loads that go on by themselves: closed loops of clients, and arrivals at a rate whatever the service does. Seeded."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from tests.faults.harness.clients import Clients
from tests.faults.records import PATIENT, Manner, Plan

MannerOf = Callable[[random.Random], Manner]
_LONGEST_PAUSE_S = 1.0
_PAUSE_S = 0.1  # of a client that is refused without being told for how long


def patient(_: random.Random) -> Manner:
    """Reads to the end."""
    return PATIENT


def restless(rng: random.Random) -> Manner:
    """One client of four leaves early, one of ten reads slowly, and some do both."""
    leaves_after = rng.randint(1, 20) if rng.random() < 0.25 else None
    return Manner(leaves_after, rng.uniform(0.5, 3.0) if rng.random() < 0.1 else 0.0)


@asynccontextmanager
async def closed_loop(
    clients: Clients, plans: Sequence[Plan], num_clients: int, seed: int, manner_of: MannerOf = patient
) -> AsyncIterator[None]:
    """Lets so many clients ask for one plan after the other; at the end they ask no further, and read to their ends."""
    over = asyncio.Event()

    async def client(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        while not over.is_set():
            record = await clients.ask(rng.choice(plans), manner_of(rng))
            if record.status not in ("OK", "CANCELLED"):
                wanted_s = _PAUSE_S if record.retry_after_s is None else record.retry_after_s
                await asyncio.sleep(min(wanted_s, _LONGEST_PAUSE_S))

    tasks = [asyncio.create_task(client(number)) for number in range(num_clients)]
    try:
        yield
    finally:
        over.set()
        _, hung = await asyncio.wait(tasks, timeout=60)
        for task in hung:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


@asynccontextmanager
async def open_loop(clients: Clients, plans: Sequence[Plan], rate_per_s: float, seed: int) -> AsyncIterator[None]:
    """Lets requests arrive at random times, so many a second in the mean, whether earlier ones have ended or not."""
    rng = random.Random(seed)

    async def arrivals() -> None:
        due_s = asyncio.get_running_loop().time()
        while True:
            due_s += rng.expovariate(rate_per_s)
            await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
            clients.begin(rng.choice(plans))

    arriving = asyncio.create_task(arrivals())
    try:
        yield
    finally:
        arriving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await arriving
