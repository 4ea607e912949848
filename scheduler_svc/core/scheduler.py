"""Decides what the worker runs next, how far, and with whom; turns what it reports into tokens.

    schedule(now_s) -> commands -> worker -> result -> update(result, now_s) -> outputs

The core's front: sequences come in here, and everything that happens to them is done by what it puts together. Pure: no
I/O and no clock. Source: arXiv 2503.09304, sections 3 and 4.

    policy      what to prefer              iterations   batches begin and end
    composer    who gets memory             dispatcher   steps of them are sent
    planner     how far a step goes         accounts     what came of it
                                            lives        sequences go on, branch and end
"""

from collections.abc import Iterable
from dataclasses import replace

from scheduler_svc.core.accounts import Accounts
from scheduler_svc.core.cache.load import MemoryLoad, read_load
from scheduler_svc.core.cache.memory import Memory
from scheduler_svc.core.composer import Composer
from scheduler_svc.core.dispatch import Dispatcher
from scheduler_svc.core.forecast import Forecast, Forecasts
from scheduler_svc.core.iterations import Iterations
from scheduler_svc.core.lives import Lives
from scheduler_svc.core.observer import StepObserver
from scheduler_svc.core.policies import Limits, Pause, Policy, Sequel
from scheduler_svc.core.prediction import promise
from scheduler_svc.core.room import Room
from scheduler_svc.core.sessions import Programs
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.batch import Batch
from scheduler_svc.core.state.commands import Command
from scheduler_svc.core.state.cursor import START, PreemptAt
from scheduler_svc.core.state.ids import CommandId, SeqId
from scheduler_svc.core.state.results import Output, StepResult, WorkerModel, WorkTiming
from scheduler_svc.core.state.sequence import RequestClass, Sequence, SequenceState
from scheduler_svc.core.workload import Workload

LS = RequestClass.LATENCY_SENSITIVE


class Scheduler:
    """The scheduler of one life of one worker.

    Args:
        model: The worker's model in numbers.
        policy: What to prefer.
        limits: What the policy plans with.
        preempt_at: Where work may be left, unless the policy knows one granularity only.
        starvation: What best-effort work is owed.
        observer: Hears of each step.
        calibration: Timed work that the worker ran before it connected; without any, steps are
            short until each kind was seen.
        sessions: The programs that requests are turns of; it outlives the worker. None: none is known yet.
        shares: Whether sequences that begin alike share what is cached.
    """

    def __init__(
        self,
        model: WorkerModel,
        policy: Policy,
        limits: Limits | None = None,
        preempt_at: PreemptAt = PreemptAt.EXPERT,
        starvation: StarvationLimits | None = None,
        observer: StepObserver | None = None,
        calibration: Iterable[WorkTiming] = (),
        sessions: Programs | None = None,
        *,
        shares: bool = True,
    ) -> None:
        self.model = model
        self.sessions = Programs() if sessions is None else sessions
        self.limits = limits or Limits()
        preempt_at = policy.preempt_at or preempt_at
        self.work = Workload(model, self.limits, preempt_at, starvation or StarvationLimits(), policy.queue_key)
        for timing in calibration:
            self.work.cost_model.observe(timing)
        self._outbox: list[Command] = []
        self._policy = policy
        self.memory = Memory(model, self._outbox.append, shares=shares)
        self._room = Room(self.work, self.memory, self.sessions, policy.queue_key, self._outbox.append)
        composer = Composer(self.work.queues, self.memory, self._room, self.work.suspects)
        self._accounts = Accounts(self.work, observer)
        self._lives = Lives(self.work, self.memory, self._room, self.sessions, self._accounts, self._outbox)
        self._iterations = Iterations(
            self.work, self.memory, self._lives, self._room, composer, self._accounts, self._outbox
        )
        self._dispatcher = Dispatcher(self.work, policy, self._accounts, self._outbox)
        self.counters = self._accounts.counters
        self.window = self._dispatcher.window
        self._forecasts = Forecasts(self.work, self.memory, self.counters.classes)

    # ---- sequences come and go

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence, whose prompt and output together fit the device's blocks.

        It is new, or lost its worker and is computed again; it has no cache.
        """
        self.sessions.arrives(sequence, sequence.arrival_s)
        for each in sequence.kin.own(sequence):
            each.effective_class = self._policy.queue_class(each)
            if each.first_token_s is None:
                promise.accept(each, self.limits.ls_ttft_s, self.limits.ls_tpot_s)
            self.work.sequences[each.seq_id] = each
            each.kin.enters(each)
            if each.state is not SequenceState.HELD:
                self.work.queues.of(each).push(each)
            self.work.suspects.add(each)

    def forecast(self, sequence: Sequence) -> Forecast:
        """Predicts how a sequence would fare that were added now."""
        return self._forecasts.of(sequence)

    def wait_s(self, request_class: RequestClass) -> float:
        """Predicts after how long a further request of a class would be begun, had it the worker to itself.

        Infinite while that is not known.
        """
        return self._forecasts.wait_s(request_class)

    def abort(self, seq_id: SeqId, now_s: float) -> Sequence | None:
        """Ends a live sequence at once and gives up its memory; returns it, or None if it is not live."""
        sequence = self.work.sequences.get(seq_id)
        return self._end(sequence, now_s) if sequence is not None else None

    def finish(self, seq_id: SeqId, now_s: float) -> Sequence | None:
        """Ends a live sequence as `abort` does, but as one whose answer is whole, as its reader found: it is judged."""
        sequence = self.work.sequences.get(seq_id)
        if sequence is None:
            return None
        self._accounts.answer_ended(sequence)
        return self._end(sequence, now_s, now_s)

    def _end(self, sequence: Sequence, now_s: float, whole_at_s: float | None = None) -> Sequence:
        if any(each.state is SequenceState.IN_BATCH for each in sequence.kin.own(sequence)):
            self._dispatcher.preempt(now_s)  # the worker drops it at the next boundary, not after all that it was sent
        self._lives.end(sequence, whole_at_s)
        return sequence

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """The live sequences."""
        return tuple(self.work.sequences.values())

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches under way."""
        return tuple(self.work.batches)

    def worker_died(self) -> bool:
        """Notes whom the worker was running when it died, as far as its answers tell; returns whether it ran any."""
        head, was_alone = self.window.head, len(self.window.sequences) == 1
        for batch in head.batches if head else ():
            for member in batch.members:
                member.sequence.note_death(was_alone=was_alone)
        return head is not None

    @property
    def running_unit_s(self) -> float | None:
        """Predicts the longest unit of the step that the worker runs; None if it runs none, or nothing is known yet."""
        return self._dispatcher.running_unit_s

    def memory_load(self) -> MemoryLoad:
        """Returns who holds how much of the cache now."""
        kept = [each.sequence for each in self.sessions.victims()]
        load = read_load(self.model, self.memory, self.sequences, kept, self.counters)
        return replace(load, num_session_hits=self.sessions.num_hits, num_session_misses=self.sessions.num_misses)

    def check_integrity(self) -> None:
        """Checks that the books of memory agree with each other; raises IntegrityError naming what does not."""
        kept = [each.sequence for each in self.sessions.victims()]
        self.memory.check_integrity([*self.work.sequences.values(), *kept])

    # ---- what to run

    def schedule(self, now_s: float) -> list[Command]:
        """Returns the commands to send now, in order; empty when the worker has enough to do or nothing waits."""
        self._dispatcher.wakeup_s = None
        self._room.release_expired(now_s)
        while self._dispatcher.has_place:
            self.work.look(self._dispatcher.moment(now_s))
            batch = self._choose(now_s)
            if batch is None:
                self._dispatcher.note_no_work()
                break
            if batch.request_class is LS and batch is self.work.of_class(LS)[-1]:  # one that was passed stops nobody
                self._dispatcher.preempt(now_s)
            if not self._dispatcher.advance(batch, now_s):
                break
        commands = self._outbox.copy()
        self._outbox.clear()  # it is the same list for all who write to it
        return commands

    @property
    def wakeup_s(self) -> float | None:
        """When to call `schedule` again if nothing else happens before: work is held back until the window has room."""
        return self._dispatcher.wakeup_s

    @property
    def wait_bound_s(self) -> float:
        """Bound on the running best-effort work that an arrival waits for, in seconds."""
        return self._dispatcher.wait_bound_s

    def _choose(self, now_s: float) -> Batch | None:
        """Returns the batch that the policy prefers among those that can run, forming it if it is new."""
        for choice in self._policy.preferences(self.work):
            if isinstance(choice, Pause):
                self._dispatcher.pause(now_s, choice.seconds)
                return None
            if isinstance(choice, Batch):
                batch = choice if self._room.make_resident(choice) else None
                if choice not in self.work.batches:  # nobody is left in it: others may run that stood behind it
                    return self._choose(now_s)
            elif isinstance(choice, Sequel):
                batch = self._form_sequel(choice, now_s)
            else:
                batch = self._iterations.form(choice)
            if batch is not None:
                return batch
        return None

    def _form_sequel(self, sequel: Sequel, now_s: float) -> Batch | None:
        """Begins the next iteration of the class's only batch shortly before this one ends, so that no time is lost."""
        mine = self.work.of_class(sequel.request_class)  # two, where a sequel is under way already
        if len(mine) != 1 or not mine[0].is_issued or mine[0].is_preempted:
            return None
        if not self._dispatcher.is_near_end(mine[0], sequel.margin, now_s):
            return None
        return self._iterations.form_sequel(mine[0], sequel.plan())

    # ---- what came of it

    def update(self, result: StepResult, now_s: float) -> list[Output]:
        """Takes in what a step did, unless it is unknown; returns tokens and failures for the callers."""
        step = self._dispatcher.answered(result.command_id, now_s)
        if step is None:
            return []
        self._accounts.step_answered(step, result, now_s)
        outputs: list[Output] = []
        for failed in result.batch_errors:
            outputs += self._iterations.fail(failed.batch_id, failed.message)
        for left_out in result.sequence_errors:
            outputs += self._iterations.fail_sequence(left_out)
        tokens = {token.seq_id: token for token in result.tokens}
        scores = {one.seq_id: one.scores for one in result.scored}
        for batch in step.batches:
            # Only a batch that was cut short stands elsewhere than where it was sent to.
            stands_at = result.reached if batch.is_preempted else step.command.until
            if stands_at > START:
                self._accounts.note_first_run(batch, now_s - result.duration_ns * 1e-9)
            if batch.is_preempted and self._dispatcher.settle(batch, stands_at):
                self._iterations.drop_if_empty(batch)
            if stands_at >= batch.end and batch in self.work.batches:  # else it failed, or was dropped meanwhile
                outputs += self._iterations.end(batch, tokens, scores, now_s)
        return outputs

    def refuse(self, command_id: CommandId, message: str, now_s: float) -> list[Output]:
        """Takes in that the worker refused a step; returns the failures of the sequences in its batches."""
        step = self._dispatcher.answered(command_id, now_s)
        if step is None:
            return []
        self._accounts.step_refused(step)
        outputs: list[Output] = []
        for batch in step.batches:
            outputs += self._iterations.fail(batch.batch_id, message)
        return outputs
