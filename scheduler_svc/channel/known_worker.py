"""What the link knows of the worker that it serves: who it is, what it owes, and whether it makes progress.

Pure state and judgement; time is an argument, and it knows no socket.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from scheduler_svc.core.state.commands import Advance, CheckIntegrity, Command
from scheduler_svc.generation import ServedModel


@dataclass(slots=True)
class KnownWorker:
    """One life of a worker.

    Attributes:
        identity: Its ZeroMQ identity.
        epoch: Its life.
        model: What it serves.
        pid: Its process id on its host.
        hang_timeout_s: Seconds without progress, or without a word, after which it counts as hung; where more is known
            of what it does, fewer do.
        last_heard_s: When it said something last.
        hung_reason: Why it counts as hung; None while it does not.
    """

    identity: bytes
    epoch: int
    model: ServedModel
    pid: int
    hang_timeout_s: float
    last_heard_s: float
    hung_reason: str | None = None
    _unanswered: set[int] = field(default_factory=set)
    _unanswered_checks: set[int] = field(default_factory=set)

    def expect_answers(self, commands: Sequence[Command]) -> None:
        """Notes that each Advance and each check among the commands will be answered once."""
        for command in commands:
            if isinstance(command, Advance):
                self._unanswered.add(command.command_id)
            elif isinstance(command, CheckIntegrity):
                self._unanswered_checks.add(command.check_id)

    def take_answer(self, command_id: int) -> bool:
        """Returns whether an answer to this command was waited for; it no longer is."""
        if command_id not in self._unanswered:
            return False
        self._unanswered.remove(command_id)
        return True

    def take_check(self, check_id: int) -> bool:
        """Returns whether an answer to this check was waited for; it no longer is."""
        if check_id not in self._unanswered_checks:
            return False
        self._unanswered_checks.remove(check_id)
        return True

    def judge_progress(self, stuck_s: float, patience_s: float | None = None) -> bool:
        """Judges by the engine's word that there was no progress for `stuck_s`; returns whether the verdict changed.

        Args:
            stuck_s: Seconds without progress.
            patience_s: How long that may be in what it does; None: nothing is known of it.
        """
        limit_s = self._limit_s(patience_s)
        return self._judge(f"no progress for {stuck_s:.1f} s" if stuck_s >= limit_s else None, limit_s)

    def judge_silence(self, now_s: float, patience_s: float | None = None) -> bool:
        """Judges by how long nothing was heard, which only a heartbeat undoes; returns whether the verdict changed."""
        silence_s, limit_s = now_s - self.last_heard_s, self._limit_s(patience_s)
        return silence_s >= limit_s and self._judge(f"no heartbeat for {silence_s:.1f} s", limit_s)

    def _limit_s(self, patience_s: float | None) -> float:
        return self.hang_timeout_s if patience_s is None else min(self.hang_timeout_s, patience_s)

    def _judge(self, what: str | None, limit_s: float) -> bool:
        was_hung = self.hung_reason is not None
        if what is None:
            self.hung_reason = None
        elif not was_hung:
            self.hung_reason = f"{what}, allowed are {limit_s:.3g} s"
        return was_hung != (what is not None)
