"""Accounts for what the worker did: counters, what best-effort work is owed, who was left standing, when work began.

Writes down what others decided; decides nothing and sends nothing.
"""

from scheduler_svc.core.counters import Counters
from scheduler_svc.core.observer import StepObserver
from scheduler_svc.core.prediction import promise
from scheduler_svc.core.state.batch import Batch, Shape
from scheduler_svc.core.state.cursor import Cursor, Stage
from scheduler_svc.core.state.results import StepResult
from scheduler_svc.core.state.sequence import RequestClass, Sequence
from scheduler_svc.core.window import InFlight
from scheduler_svc.core.workload import Workload

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT


class Accounts:
    """The books of one life of one worker.

    Args:
        work: Whose cost model and guard learn from each step.
        observer: Hears of each step, if anybody does.

    Attributes:
        counters: What an operator reads.
    """

    def __init__(self, work: Workload, observer: StepObserver | None) -> None:
        self.counters = Counters()
        self._work = work
        self._observer = observer
        self._last_run: tuple[Batch, ...] = ()

    def step_sent(self, step: InFlight) -> None:
        """Charges a step before it is done, so that what best-effort work is owed is not sent twice."""
        self._work.guard.spend(step.charged_s)
        self.counters.num_joins += len(step.batches) > 1

    def step_refused(self, step: InFlight) -> None:
        """Takes back what a step was charged that the worker did not carry out."""
        self._work.guard.settle(step.charged_s)

    def step_answered(self, step: InFlight, result: StepResult, now_s: float) -> None:
        """Takes in what a step did: whom it left standing, its time, and what that teaches."""
        self._note_preemptions(step.batches, result.reached)
        self._count(step, result)
        self._work.cost_model.observe(result.timing)
        guard, duration_s = self._work.guard, result.duration_ns * 1e-9
        guard.settle(step.charged_s)
        guard.record(now_s, duration_s, step.be_fraction, be_waits=self._work.has_best_effort)
        if self._observer is not None:
            self._observer.step_answered(step, result, now_s)

    def note_first_run(self, batch: Batch, began_s: float) -> None:
        """Notes when work on its sequences began; by the worker's clock, which may be off by a rounding."""
        for sequence in (member.sequence for member in batch.members):
            if sequence.first_run_s is None:
                sequence.first_run_s = max(began_s, sequence.arrival_s)

    def token_came(self, sequence: Sequence, now_s: float) -> None:
        """Counts a token, and judges a first one."""
        counts = self.counters.classes[sequence.request_class]
        counts.num_generated_tokens += 1
        if len(sequence.output_token_ids) == 1:
            num_tokens = len(sequence.prompt_token_ids)
            idle_s = self._work.iteration_s(Shape.of_chunk(num_tokens, num_tokens))
            is_known = self._work.cost_model.is_ready  # before that there is nothing to judge by
            sequence.is_first_in_time = not is_known or now_s - sequence.arrival_s <= promise.first_token_within_s(
                sequence, idle_s
            )
            counts.num_first_tokens += 1
            counts.num_first_tokens_in_time += sequence.is_first_in_time

    def answer_ended(self, sequence: Sequence) -> None:
        """Judges the tokens of an answer that ended whole."""
        counts, is_paced = self.counters.classes[sequence.request_class], promise.is_paced(sequence)
        if is_paced is not None:
            counts.num_paced += 1
            counts.num_paced_in_time += is_paced
        counts.num_judged += 1
        counts.num_attained += sequence.is_first_in_time and is_paced is not False

    def iteration_begun(self, batch: Batch) -> None:
        """Counts who rides in it."""
        if batch.request_class is LS:
            self.counters.num_riders += sum(member.sequence.rides for member in batch.members)

    def iteration_ended(self, batch: Batch) -> None:
        """Counts an iteration, whose batch is under way no more."""
        self.counters.num_iterations += 1
        self._work.guard.iteration_finished(be_waits=batch.request_class is LS and self._work.has_best_effort)

    def _count(self, step: InFlight, result: StepResult) -> None:
        counters = self.counters
        counters.num_commands += 1
        counters.num_offloaded_blocks += result.timing.num_offloaded_blocks
        counters.offload_ns += result.timing.offload_ns
        counters.num_restored_blocks += result.timing.num_restored_blocks
        counters.restore_ns += result.timing.restore_ns
        counters.suspended_bytes = result.suspended_bytes
        counters.suspended_tokens = sum(batch.shape.num_tokens for batch in self._work.batches if batch.is_begun)
        counters.busy_ns += result.duration_ns
        be_ns = round(result.duration_ns * step.be_fraction)
        counters.classes[BE].busy_ns += be_ns
        counters.classes[LS].busy_ns += result.duration_ns - be_ns
        if not step.after_quiet:
            counters.control_idle_ns += result.idle_ns

    def _note_preemptions(self, batches: tuple[Batch, ...], reached: Cursor) -> None:
        """Notes the batches that ran last and are left standing inside their iteration while these go on."""
        if batches[0].reached == reached:
            return  # a step that was cut short before it began: whoever stood goes on standing
        for batch in self._last_run:
            if batch not in batches and batch in self._work.batches:
                self._count_preemption(batch)
                if self._observer is not None:
                    self._observer.batch_preempted(batch, batches)
        for batch in batches:
            batch.reached = reached
        self._last_run = batches

    def _count_preemption(self, batch: Batch) -> None:
        if batch.reached.stage is Stage.ATTENTION:
            self.counters.num_preemptions_at_layer += 1
        else:
            self.counters.num_preemptions_at_expert += 1
        for member in batch.members:
            member.sequence.num_preemptions += 1
