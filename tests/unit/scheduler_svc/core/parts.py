"""The core's parts put together by hand, as far as a test of one of them needs."""

from collections.abc import Iterator
from itertools import count

from scheduler_svc.core.accounts import Accounts
from scheduler_svc.core.cache.memory import Memory
from scheduler_svc.core.composer import Composer
from scheduler_svc.core.dispatch import Dispatcher
from scheduler_svc.core.iterations import Iterations
from scheduler_svc.core.lives import Lives
from scheduler_svc.core.observer import StepObserver
from scheduler_svc.core.policies import BatchPlan, Limits, Policy, View
from scheduler_svc.core.policies.base import Choice
from scheduler_svc.core.room import Room
from scheduler_svc.core.sessions import Programs
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.batch import Batch
from scheduler_svc.core.state.commands import Command
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.queues import BE_PREFILL, LS_PREFILL
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, StopConditions
from scheduler_svc.core.workload import Workload
from tests.support.core.simulation import LS, Costs, SimWorker, small_model


class EveryoneTogether(Policy):
    """Joins all batches, and lets a stated time be outstanding."""

    name = "everyone-together"

    def __init__(self, window_s: float | None = None) -> None:
        self._window_s = window_s

    def preferences(self, view: View) -> Iterator[Choice]:
        yield from ()

    def companions(self, view: View, batch: Batch) -> Iterator[Batch]:
        yield from (other for other in view.batches if other is not batch)  # type: ignore[attr-defined]

    def window_s(self, view: View, batch: Batch) -> float | None:
        return self._window_s


class Parts:
    """A workload with all who change it; nobody chooses."""

    def __init__(
        self, policy: Policy | None = None, *, calibrated: bool = True, observer: StepObserver | None = None
    ) -> None:
        self.model = small_model()
        policy = policy or EveryoneTogether()
        self.outbox: list[Command] = []
        self.work = Workload(
            self.model, Limits(), PreemptAt.EXPERT, StarvationLimits(threshold=0), lambda s: (s.arrival_s, s.seq_id)
        )
        self.memory = Memory(self.model, self.outbox.append)
        self.accounts = Accounts(self.work, observer)
        sessions = Programs()
        room = Room(self.work, self.memory, sessions, policy.queue_key, self.outbox.append)
        composer = Composer(self.work.queues, self.memory, room, self.work.suspects)
        self.lives = Lives(self.work, self.memory, room, sessions, self.accounts, self.outbox)
        self.iterations = Iterations(self.work, self.memory, self.lives, room, composer, self.accounts, self.outbox)
        self.dispatcher = Dispatcher(self.work, policy, self.accounts, self.outbox)
        self._seq_ids = count(1)
        for timing in SimWorker(self.model, Costs()).calibration() if calibrated else ():
            self.work.cost_model.observe(timing)

    def queue(self, request_class: RequestClass, num_prompt: int = 20, max_tokens: int = 3) -> Sequence:
        """Adds a sequence that waits."""
        seq_id = SeqId(next(self._seq_ids))
        sequence = Sequence(
            seq_id,
            request_class,
            (int(seq_id),) * num_prompt,
            SamplingParams(),
            StopConditions(max_tokens),
            0.0,
        )
        self.work.sequences[sequence.seq_id] = sequence
        self.work.queues.of(sequence).push(sequence)
        return sequence

    def batch(self, request_class: RequestClass, num_sequences: int = 1) -> Batch:
        """Begins a batch of new sequences."""
        for _ in range(num_sequences):
            self.queue(request_class)
        batch = self.iterations.form(BatchPlan((LS_PREFILL if request_class is LS else BE_PREFILL,), num_sequences))
        assert batch is not None
        return batch

    def sent(self) -> list[Command]:
        """Returns what was put into the outbox since the last call."""
        commands = self.outbox.copy()
        self.outbox.clear()
        return commands
