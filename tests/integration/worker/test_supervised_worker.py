"""A worker process, started and kept alive by the scheduler's side; one with a model is killed in test_recovery."""

import asyncio
import contextlib
import os
import signal

import pytest

from scheduler_svc.channel.link import WorkerLink
from scheduler_svc.core.state.commands import AddSequence, Advance, BatchItem, StartBatch
from scheduler_svc.core.state.cursor import Cursor
from scheduler_svc.core.state.ids import BatchId, BlockId, CommandId, SeqId
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, SamplingParams, StopConditions
from scheduler_svc.supervisor import WorkerSupervisor
from tests.support.channel.control_channel import ROOT, RecordingListener, ipc_endpoint, listening
from tests.support.service.simulated_worker import INSTANT


class SupervisedListener(RecordingListener):
    def __init__(self, supervisor: WorkerSupervisor) -> None:
        super().__init__()
        self.supervisor = supervisor

    def worker_joined(self, *event: object) -> None:
        self.supervisor.worker_joined()
        super().worker_joined(*event)  # type: ignore[arg-type]


async def first_token(link: WorkerLink, listener: RecordingListener) -> int:
    assert listener.model is not None
    end = Cursor(listener.model.core.num_layers)
    item = BatchItem(SeqId(1), 4, (10, 11, 12, 13), 0, (BlockId(0),), samples=True)
    listener.results.clear()
    already = len(listener.of("result"))
    link.send([
        AddSequence(SeqId(1), SamplingParams(temperature=0.0), StopConditions(1), 0),
        StartBatch(BatchId(1), RequestClass.LATENCY_SENSITIVE, (item,)),
        Advance(CommandId(1), (BatchId(1),), end),
    ])  # fmt: skip
    await listener.wait_for("result", already + 1)
    (token,) = listener.results[0].tokens
    assert (listener.results[0].reached, token.finish_reason) == (end, FinishReason.LENGTH)
    return token.token_id


async def test_killed_worker_is_replaced_and_gives_the_same_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'protos'}")
    with ipc_endpoint() as endpoint:
        supervisor = WorkerSupervisor(endpoint, str(ROOT / "demo/model"), [*INSTANT])
        async with listening(endpoint, SupervisedListener(supervisor)) as (link, listener):
            running = asyncio.create_task(supervisor.run())
            try:
                _, _, first_pid = await listener.wait_for("joined")
                token = await first_token(link, listener)
                os.kill(int(str(first_pid)), signal.SIGKILL)
                await listener.wait_for("lost")
                _, _, second_pid = await listener.wait_for("joined", 2)
                assert second_pid != first_pid
                assert await first_token(link, listener) == token
                link.send_shutdown()
            finally:
                await supervisor.close()
                await running
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(str(second_pid)), 0)
                pytest.fail("the worker outlived its supervisor")
