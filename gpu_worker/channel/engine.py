"""The one thread that owns the model: takes a command, acts, reports.

Keeps order and time, and turns whatever goes wrong into a report: one bad command or batch never ends the others. It
knows no socket, no tensor and no policy. What can't be survived (no memory, a broken device) ends the process, whose
supervisor starts another.
"""

import logging
import time
from typing import Protocol

from qllm.v1 import control_pb2

from gpu_worker.channel.codec import decode_command, encode_integrity_report, encode_outcome, encode_refusal
from gpu_worker.channel.mailbox import Forget, Mailbox, Order, Progress, Refusal, Shutdown, Stop
from gpu_worker.contract.commands import Advance, CheckIntegrity, PreemptAt
from gpu_worker.contract.executor import Executor
from gpu_worker.contract.results import AdvanceOutcome
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused, WorkerRefused

_log = logging.getLogger(__name__)

_FATAL_TYPES = ("MemoryError:", "AcceleratorError:")
_FATAL_SIGNS = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "device-side assert")


class FatalEngineError(Exception):
    """Something went wrong that no later command can be trusted after."""


class Reporter(Protocol):
    """Where reports go."""

    @property
    def epoch(self) -> int:
        """The epoch now; orders of another are void."""

    def send(self, epoch: int, report: control_pb2.WorkerReport) -> None:
        """Sends a report without waiting."""


class Engine:
    """Runs the commands of a mailbox, in order.

    Args:
        mailbox: Where commands come from.
        executor: Carries them out.
        reporter: Gets one StepResult or CommandError for each Advance, an IntegrityReport for each
            CheckIntegrity, and a CommandError for any other that is refused.
        progress: Kept up to date for heartbeats.
    """

    def __init__(self, mailbox: Mailbox, executor: Executor, reporter: Reporter, progress: Progress) -> None:
        self._mailbox = mailbox
        self._executor = executor
        self._reporter = reporter
        self._progress = progress
        self._idle_ns = 0
        self._free_since_ns = time.monotonic_ns()

    def run(self) -> None:
        """Runs until Stop or Shutdown.

        Raises:
            WorkerRefused: The scheduler will never take this worker.
            FatalEngineError: No later command can be trusted.
        """
        while not isinstance(mail := self._mailbox.get(), Stop):
            if isinstance(mail, Forget):
                self._forget_all()
            elif isinstance(mail, Refusal):
                raise WorkerRefused(f"the scheduler refuses this worker: {mail.reason}")
            elif mail.epoch != self._reporter.epoch:
                continue  # given in an epoch that ended while it waited here
            elif isinstance(mail, Shutdown):
                _log.info("shutdown epoch=%016x", mail.epoch)
                return
            else:
                self._carry_out(mail)

    def _forget_all(self) -> None:
        self._executor.forget_all()
        self._idle_ns = 0
        self._free_since_ns = time.monotonic_ns()

    def _carry_out(self, order: Order) -> None:
        command_id = order.command.advance.command_id  # 0 for all but Advance
        self._progress.begin(command_id)
        try:
            report = self._execute(order.command)
        except CommandRefused as refusal:
            self._refuse(order.epoch, command_id, str(refusal))
        except FatalEngineError:
            raise
        except Exception as error:
            message = _describe(error)
            _log.exception("command_failed epoch=%016x command_id=%d", order.epoch, command_id)
            self._refuse(order.epoch, command_id, message)
        else:
            if report is not None:
                self._reporter.send(order.epoch, report)
        finally:
            self._progress.end()

    def _execute(self, step: control_pb2.StepCommand) -> control_pb2.WorkerReport | None:
        began_ns = time.monotonic_ns()
        self._idle_ns += began_ns - self._free_since_ns
        try:
            command = decode_command(step)  # here, for the link's thread must be free to hear Preempt
            if isinstance(command, CheckIntegrity):
                return encode_integrity_report(self._executor.check(command.check_id))
            if not isinstance(command, Advance):
                self._executor.apply(command)
                return None
            report = encode_outcome(command.command_id, self._advance(command))
            report.step_result.idle_ns, self._idle_ns = self._idle_ns, 0
            report.step_result.duration_ns = time.monotonic_ns() - began_ns  # with the time to read and to answer it
            return report
        finally:
            self._free_since_ns = time.monotonic_ns()

    def _advance(self, advance: Advance) -> AdvanceOutcome:
        try:
            outcome = self._executor.advance(advance, lambda cursor: self._goes_on(advance, cursor))
        except CommandRefused:
            raise
        except Exception as error:
            message = _describe(error)
            _log.exception("advance_failed command_id=%d batch_ids=%s", advance.command_id, list(advance.batch_ids))
            errors = self._executor.abandon(advance.batch_ids, message)
            outcome = AdvanceOutcome(advance.until, batch_errors=errors)
        for failed in outcome.batch_errors:
            _raise_if_fatal(failed.message)
            _log.error("batch_failed batch_id=%d seq_ids=%s error=%r", failed.batch_id, failed.seq_ids, failed.message)
        return outcome

    def _goes_on(self, advance: Advance, cursor: Cursor) -> bool:
        """Notes progress; returns False where the scheduler wants this advance cut short and it may stand."""
        self._progress.tick()
        # Read anew each time: the link's thread puts another range there when Preempt arrives.
        if advance.command_id not in self._mailbox.preempted_command_ids:
            return True
        if advance.preempt_at is PreemptAt.LAYER:
            return cursor.stage is not Stage.ATTENTION
        return advance.preempt_at is not PreemptAt.EXPERT

    def _refuse(self, epoch: int, command_id: int, message: str) -> None:
        _log.error("command_refused epoch=%016x command_id=%d error=%r", epoch, command_id, message)
        self._reporter.send(epoch, encode_refusal(command_id, message))


def _describe(error: Exception) -> str:
    """Returns "Type: text", unless the error is fatal."""
    message = f"{type(error).__name__}: {error}"
    _raise_if_fatal(message)
    return message


def _raise_if_fatal(message: str) -> None:
    if message.startswith(_FATAL_TYPES) or any(sign in message for sign in _FATAL_SIGNS):
        raise FatalEngineError(message)
