"""Commands with any content to the worker, with and without a model: each is carried out or refused."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qllm.v1 import control_pb2

from gpu_worker.channel.engine import Engine
from gpu_worker.channel.mailbox import Mail, Mailbox, Order, Progress, Stop
from gpu_worker.execution.executor import RunnerExecutor
from gpu_worker.execution.forgiving import ForgivingExecutor
from gpu_worker.execution.runner import Runner
from gpu_worker.simulated.cost_table import load_cost_table
from gpu_worker.simulated.executor import SimulatedExecutor
from tests.faults.fuzz.inputs import fuzzing, messages
from tests.support.worker.worker_driver import loaded

EPOCH = 5
NUM_BLOCKS = 16
# What the link deals with itself: it never reaches the engine.
OF_THE_LINK = ("welcome", "shutdown", "refused", "preempt")


@dataclass
class Reports:
    epoch: int = EPOCH
    sent: list[control_pb2.WorkerReport] = field(default_factory=list)

    def send(self, epoch: int, report: control_pb2.WorkerReport) -> None:
        assert epoch == EPOCH
        self.sent.append(report)


def simulated() -> ForgivingExecutor:
    costs = load_cost_table("zero")
    executor = SimulatedExecutor(
        costs,
        block_size=4,
        num_blocks=NUM_BLOCKS,
        max_model_len=64,
        vocab_size=100,
        vocabulary=range(100),
    )
    return ForgivingExecutor(executor, costs.num_layers)


def computing() -> ForgivingExecutor:
    """A tiny model."""
    executor = RunnerExecutor(Runner(loaded(), NUM_BLOCKS, 4, NUM_BLOCKS))
    return ForgivingExecutor(executor, loaded().facts.num_layers)


def sequence(seq_id: int) -> control_pb2.StepCommand:
    """A sequence that is known, so that commands that name it mean something."""
    return control_pb2.StepCommand(add_sequence=control_pb2.AddSequence(seq_id=seq_id, max_tokens=8))


def batch(batch_id: int, seq_id: int, block_id: int) -> control_pb2.StepCommand:
    item = control_pb2.BatchItem(
        seq_id=seq_id, num_tokens=3, token_ids=[5, 6, 7], new_block_ids=[block_id], samples=True
    )
    return control_pb2.StepCommand(start_batch=control_pb2.StartBatch(batch_id=batch_id, items=[item]))


KNOWN = (*(sequence(seq_id) for seq_id in (1, 2, 3)), batch(1, 1, 0), batch(2, 2, 1))


@pytest.mark.parametrize("make", [simulated, computing])
@fuzzing
@given(commands=st.lists(messages(control_pb2.StepCommand), max_size=20))
def test_commands_of_any_content_are_carried_out_or_refused(
    make: Callable[[], ForgivingExecutor], caplog: pytest.LogCaptureFixture, commands: list[control_pb2.StepCommand]
) -> None:
    mailbox, reports, worker = Mailbox(), Reports(), make()
    given_commands = [command for command in commands if command.WhichOneof("command") not in OF_THE_LINK]
    mails: list[Mail] = [Order(EPOCH, command) for command in (*KNOWN, *given_commands)]
    for mail in (*mails, Stop()):
        mailbox.put(mail)
    caplog.clear()
    Engine(mailbox, worker, reports, Progress()).run()
    assert not [record.exc_text for record in caplog.records if record.exc_info]  # refused with reason, not by accident
    assert worker.check(1).problem == ""
    num_advances = sum(command.WhichOneof("command") == "advance" for command in given_commands)
    kinds = [report.WhichOneof("report") for report in reports.sent]
    answers = [report for report in reports.sent if report.step_result.command_id or report.command_error.command_id]
    assert len(answers) <= num_advances
    assert set(kinds) <= {"step_result", "command_error", "integrity_report"}
