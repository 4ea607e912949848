"""Reports with any content into the scheduler's link, with the engine behind it: it goes on, whatever comes.

Each input is a life of a worker that joins properly, is given work, and then reports what it likes.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qllm.protocol import PROTOCOL_VERSION
from qllm.v1 import control_pb2

from scheduler_svc.channel.link import WorkerLink
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, StopConditions
from scheduler_svc.generation import GenerationRequest, WorkerState
from scheduler_svc.serving.engine import Engine
from scheduler_svc.serving.engine_settings import EngineSettings
from tests.faults.fuzz.inputs import fuzzing, messages
from tests.support.channel.control_channel import RawPeer, eventually, ipc_endpoint
from tests.support.channel.fake_worker import hello

NEVER_S = 1000.0
NUMBERS = count(1)
Report = tuple[int, control_pb2.WorkerReport]
"""A report and its epoch; 0 stands for the one that the worker is in."""


@dataclass
class Bench:
    """An engine and its link, a peer that can report anything, and every error that nobody foresaw."""

    engine: Engine
    link: WorkerLink
    peer: RawPeer
    unforeseen: list[object] = field(default_factory=list)

    async def live(self, reports: Sequence[Report | bytes]) -> None:
        """Joins as a new worker, is given work, sends reports and other frames, and joins once more."""
        epoch = await self.join()
        streams = [
            self.engine.submit(
                GenerationRequest(f"{next(NUMBERS)}", request_class, (5, 6, 7, 8), SamplingParams(), StopConditions(4))
            )
            for request_class in RequestClass
        ]
        first_seq_id = (await self.peer.receive("add_sequence")).command.add_sequence.seq_id
        await self.peer.receive("advance")
        for report in reports:
            self.peer.send(report if isinstance(report, bytes) else _frame(report, epoch, first_seq_id))
        await self.join()  # it has read all that came before
        for stream in streams:
            stream.close()

    async def join(self) -> int:
        """Joins; returns the epoch."""
        epoch = 1000 + next(NUMBERS)
        self.peer.say_hello(epoch)
        await eventually(lambda: self.engine.worker_epoch == epoch)
        await self.peer.receive("welcome")
        assert self.engine.worker_state is WorkerState.READY
        return epoch


def _frame(report: Report, epoch: int, first_seq_id: int) -> bytes:
    """Numbers of sequences are counted from the first one that this life was told of."""
    of_epoch, content = report
    result = content.step_result
    for numbered in (*result.tokens, *result.sequence_errors):
        numbered.seq_id = min(numbered.seq_id + first_seq_id, (1 << 64) - 1)
    return control_pb2.ControlMessage(worker_epoch=of_epoch or epoch, report=content).SerializeToString()


@asynccontextmanager
async def benched(endpoint: str) -> AsyncIterator[Bench]:
    unforeseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unforeseen.append(context))
    engine = Engine(EngineSettings(), lambda commands: link.send(commands), unforeseen.append)
    link = WorkerLink(endpoint, engine, heartbeat_interval_s=0.05, hang_timeout_s=NEVER_S)
    async with link:
        with RawPeer(endpoint, b"worker") as peer:
            yield Bench(engine, link, peer, unforeseen)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def bench(runner: asyncio.Runner) -> Iterator[Bench]:
    with ipc_endpoint() as endpoint:
        context = benched(endpoint)
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


def plausible(number: int) -> control_pb2.WorkerReport:
    """An answer that the link can't tell from a right one, about what it likes."""
    rng = Random(number)
    stage = rng.choice((control_pb2.STAGE_ATTENTION, control_pb2.STAGE_EXPERTS))
    layer, expert = (rng.randint(0, 2), 0) if stage == control_pb2.STAGE_ATTENTION else (1, rng.randint(0, 4))
    tokens = [
        control_pb2.SampledToken(seq_id=rng.randint(0, 2), token_id=rng.randint(0, 99), finish_reason=rng.randint(0, 2))
        for _ in range(rng.randint(0, 3))
    ]
    result = control_pb2.StepResult(
        command_id=rng.randint(1, 2),
        reached=control_pb2.Cursor(layer=layer, stage=stage, expert=expert),
        duration_ns=rng.choice((0, 1000, 10**9, 10**14)),
        tokens=tokens if rng.random() < 0.7 else [],
    )
    if rng.random() < 0.3:
        batch_id, seq_ids = rng.randint(1, 2), [rng.randint(1, 4)]
        result.batch_errors.append(control_pb2.BatchError(batch_id=batch_id, seq_ids=seq_ids, message="it failed"))
    if rng.random() < 0.3:
        lost = control_pb2.SequenceError(
            seq_id=rng.randint(0, 2), message="it failed", cache_is_lost=rng.random() < 0.5
        )
        result.sequence_errors.append(lost)
    return control_pb2.WorkerReport(step_result=result)


PLAUSIBLE = st.integers(0, 1 << 62).map(plausible)
# A Hello would be another life.
ANYTHING = messages(control_pb2.WorkerReport).filter(lambda made: made.WhichOneof("report") != "hello")
THIS_EPOCH, ANY_EPOCH = st.just(0), st.integers(0, (1 << 64) - 1)
REPORTS = (
    st.tuples(THIS_EPOCH, PLAUSIBLE) | st.tuples(THIS_EPOCH, ANYTHING) | st.tuples(ANY_EPOCH, PLAUSIBLE | ANYTHING)
)


def test_reports_of_any_content_end_nothing_but_what_they_are_about(bench: Bench, runner: asyncio.Runner) -> None:
    @fuzzing
    @given(st.lists(REPORTS, max_size=8))
    def sends(drawn: list[Report]) -> None:
        runner.run(bench.live(drawn))
        assert bench.unforeseen == []

    sends()


def test_workers_of_any_kind_are_taken_or_refused(bench: Bench, runner: asyncio.Runner) -> None:
    @fuzzing
    @given(messages(control_pb2.Hello))
    def sends(changes: control_pb2.Hello) -> None:
        introduction = hello()
        introduction.MergeFrom(changes)
        introduction.protocol_version = PROTOCOL_VERSION
        frame = _frame((1000 + next(NUMBERS), control_pb2.WorkerReport(hello=introduction)), 0, 0)
        runner.run(bench.live([frame]))
        assert bench.unforeseen == []

    sends()


def test_bytes_of_any_kind_are_dropped(bench: Bench, runner: asyncio.Runner) -> None:
    @fuzzing
    @given(st.lists(st.binary(min_size=1, max_size=200), max_size=8))
    def sends(frames: list[bytes]) -> None:
        runner.run(bench.live(frames))
        assert bench.unforeseen == []

    sends()
