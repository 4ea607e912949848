"""The work at hand: the queues, the batches under way, and what is known of cost and time. What a policy may look at.

Answers questions and decides nothing. Sequences and batches change in `iterations`, what was
learned and owed in `accounts`.
"""

from scheduler_svc.core.policies import Ahead, Limits
from scheduler_svc.core.prediction.cost_model import CostModel
from scheduler_svc.core.prediction.outlook import Moment, Outlook
from scheduler_svc.core.prediction.planner import StepPlanner
from scheduler_svc.core.starvation import StarvationGuard, StarvationLimits
from scheduler_svc.core.state.batch import Batch, Shape
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL, QueueKey, QueueName, Queues
from scheduler_svc.core.state.results import WorkerModel
from scheduler_svc.core.state.sequence import RequestClass, Sequence, SequenceState
from scheduler_svc.core.suspects import Suspects

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
_ROUNDING_S = 1e-6
# A prompt may cut into an iteration that others wait in. So often at most, or their tokens would never come.
MOST_PASSED = 2


class Workload:
    """Implements the policies' `View`.

    Attributes:
        limits: The configured limits.
        preempt_at: Where work may be left.
        computes_on_cpu: Whether the model is computed on cores, from which decisions take time.
        block_size: Tokens in one cache block.
        sequences: The live ones.
        queues: Those that wait.
        suspects: Those that run alone.
        batches: Batches under way.
        cost_model: Predicts what they take.
        guard: Knows what best-effort work is owed.
        planner: Knows the model's layers, and where steps may stop.
        outlook: What is foreseen at this decision.
    """

    def __init__(
        self, model: WorkerModel, limits: Limits, preempt_at: PreemptAt, starvation: StarvationLimits, key: QueueKey
    ) -> None:
        self.limits = limits
        self.preempt_at = preempt_at
        self.computes_on_cpu = model.computes_on_cpu
        self.block_size = model.block_size
        self.sequences: dict[SeqId, Sequence] = {}
        self.queues = Queues(key)
        self.suspects = Suspects()
        self.batches: list[Batch] = []
        self.cost_model = CostModel(model)
        self.guard = StarvationGuard(starvation)
        self.planner = StepPlanner(model.experts_by_layer, preempt_at)
        self.look(Moment())

    @property
    def has_best_effort(self) -> bool:
        """Whether any best-effort work is under way or waits."""
        return self.queues.num_waiting(BE) > 0 or any(b.request_class is BE for b in self.batches)

    def of_class(self, request_class: RequestClass) -> list[Batch]:
        """Returns the class's batches under way."""
        return [batch for batch in self.batches if batch.request_class is request_class]

    def num_under_way(self, sequence: Sequence) -> int:
        """Counts the tokens that iterations under way compute of a sequence."""
        if sequence.state is not SequenceState.IN_BATCH:
            return 0
        holding = (batch for batch in self.batches if batch.holds(sequence))
        return sum(m.num_tokens for batch in holding for m in batch.members if m.sequence is sequence)

    def take_out(self, sequence: Sequence) -> list[Batch]:
        """Takes a live sequence out of its queue, and out of its iteration and the sequel of that.

        Returns the batches that are to be dropped, since nobody is left in them. One whose end has been sent is not
        among them: that end is all there is to wait for.
        """
        if sequence.state is SequenceState.QUEUED:
            self.queues.of(sequence).remove(sequence)
        held = [batch for batch in self.batches if batch.holds(sequence)]
        for batch in held:
            batch.remove(sequence)
        return [batch for batch in held if self.discard_if_empty(batch)]

    def discard_if_empty(self, batch: Batch) -> bool:
        """Takes a batch out that nobody is left in and whose end was not sent; whether it did."""
        if batch.members or batch.is_issued or batch not in self.batches:
            return False
        self.batches.remove(batch)
        return True

    def iteration_s(self, shape: Shape) -> float:
        """Predicts a whole iteration in seconds."""
        return self.outlook.iteration_s(shape)

    def num_waiting(self, queue: QueueName) -> int:
        """Counts the sequences in a queue."""
        return len(self.queues[queue])

    def ahead(self, queue: QueueName) -> Ahead:
        """Counts the sequences of a class and phase, those under way too, and the tokens that they have before them."""
        under_way = [
            member.sequence.num_tokens_ahead
            for batch in self.of_class(queue.request_class)
            for member in batch.members
            if member.sequence.phase is queue.phase
        ]
        waiting = self.queues[queue]
        return Ahead(len(waiting) + len(under_way), waiting.num_tokens_ahead + sum(under_way))

    def open_batch(self, request_class: RequestClass) -> Batch | None:
        """Returns the class's batch that has part of its iteration still to be sent; None if there is none."""
        # The newest, where one was cut into: that goes on once nothing goes ahead of it any more.
        return next((b for b in reversed(self.of_class(request_class)) if not b.is_issued and not b.is_preempted), None)

    def awaits_result(self, request_class: RequestClass) -> bool:
        """Whether a batch of the class was sent to its end or cut short, so that the next step waits for a result."""
        return any(b.is_issued or b.is_preempted for b in self.of_class(request_class))

    @property
    def has_latency_sensitive(self) -> bool:
        """Whether any latency-sensitive work is under way or waits."""
        return self.queues.num_waiting(LS) > 0 or any(b.request_class is LS for b in self.batches)

    def owes_best_effort(self) -> bool:
        """Whether best-effort work goes first: promoted for age, or behind its share.

        Between latency-sensitive iterations any credit is spent; inside one only a credit of more than a quantum, so
        that an arrival meets at most one step of it.
        """
        if self.guard.is_promoted:
            return True
        is_between = self.open_batch(LS) is None
        return self.guard.credit_s > (_ROUNDING_S if is_between else self.limits.preemption_quantum_s)

    def may_cut_in(self) -> bool:
        """Whether a latency-sensitive prompt may run ahead of all iterations under way."""
        # One that has a sequel is near its end, and what is cut short then is the sequel.
        return all(self.may_be_passed(batch) for batch in self.of_class(LS) if batch.sequel is None)

    def may_be_passed(self, batch: Batch) -> bool:
        """Whether a prompt may run ahead of an iteration: it carries best-effort work, and was not passed too often."""
        is_stoppable = self.preempt_at is not PreemptAt.ITERATION and batch.num_be_tokens > 0
        return is_stoppable and batch.num_passed < MOST_PASSED

    def look(self, moment: Moment) -> None:
        """Looks ahead from now on."""
        suspect, first = next(self.suspects.waiting_in((BE_DECODE, BE_PREFILL)), None), self.queues[BE_PREFILL].peek()
        may_ride = suspect is None and (first is None or first.may_ride)
        self.outlook = Outlook(
            self.queues,
            self.batches,
            self.cost_model,
            self.planner,
            self.limits.be_chunk_tokens,
            moment,
            may_ride=may_ride,
        )
