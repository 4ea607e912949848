"""What a policy is: pure choices about what runs next, in what order, and who goes along.

A policy sees numbers and batches through a `View`, never a tensor, a clock or a socket; the scheduler carries its choices out.
Source: arXiv 2503.09304, section 3 (user-defined policies).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Protocol

from scheduler_svc.core.state.batch import Batch, Shape
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.queues import QueueName
from scheduler_svc.core.state.sequence import RequestClass, Sequence


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How to fill a new batch: from which queues, in order, and up to what.

    Attributes:
        sources: Queues to fill it from, the first as far as it goes, then the next.
        max_sequences: Most sequences; where more decode than that, they take turns.
        max_tokens: Most tokens of one iteration; a longer prompt is split into chunks. None: whole prompts.
        filler: Queues to take along from, in order, while the predicted iteration stays within its slack (`View.has_slack`);
            nobody gives up memory for them.
    """

    sources: tuple[QueueName, ...]
    max_sequences: int
    max_tokens: int | None = None
    filler: tuple[QueueName, ...] = ()


@dataclass(frozen=True, slots=True)
class Sequel:
    """The iteration after one whose result is awaited, begun before the result is known.

    Its sequences are those that cannot end by length; the worker passes over one that ended by a stop token. From then on the
    iteration that it follows runs to its end.

    Attributes:
        request_class: Whose iteration it follows.
        plan: Makes what to fill it up with; called when it is time.
        margin: How much earlier it is begun than the predicted end and the lead ask for, in iterations: predictions are off so
            much, and whoever arrives after it is begun waits.
    """

    request_class: RequestClass
    plan: Callable[[], BatchPlan]
    margin: float


Choice = Batch | BatchPlan | Sequel


class Ahead(NamedTuple):
    """Sequences of a class and phase, and the tokens before them: of prompts to compute, or at most of outputs to generate."""

    num_sequences: int
    num_tokens: int


class View(Protocol):
    """What a policy may look at."""

    @property
    def limits(self) -> "Limits":
        """The configured limits."""

    @property
    def preempt_at(self) -> PreemptAt:
        """Where work may be left."""

    @property
    def computes_on_cpu(self) -> bool:
        """Whether the model is computed on cores, from which decisions take time."""

    def num_waiting(self, queue: QueueName) -> int:
        """Counts the sequences in a queue."""

    def ahead(self, queue: QueueName) -> Ahead:
        """Counts the sequences of a class and phase, those under way included, and the tokens that they have before them."""

    def open_batch(self, request_class: RequestClass) -> Batch | None:
        """Returns the class's batch that has part of its iteration still to be sent; None if there is none."""

    def awaits_result(self, request_class: RequestClass) -> bool:
        """Whether a batch of the class has been sent to its end or cut short, so that the next step waits for a result."""

    def owes_best_effort(self) -> bool:
        """Whether the starvation guard says that best-effort work goes first now."""

    @property
    def has_latency_sensitive(self) -> bool:
        """Whether any latency-sensitive work is under way or waits."""

    def has_slack(self, shape: Shape, companion: Shape) -> bool:
        """Whether an iteration of the first shape bears the second one beside it: within its stretch, or `ls_tpot_s`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers that policies plan with.

    Attributes:
        max_num_seqs: Most sequences of an iteration, a bound on what it keeps in memory and on what a decision takes. No bound on
            its time: whatever another sequence costs there, an iteration of its own costs more.
        be_chunk_tokens: Token budget of a best-effort iteration in which some decode: it bounds how long they wait for a token.
        be_max_chunk_tokens: Token budget of one in which nobody does, and bound on that of one beside which prompts pile up, if
            that is more and it can be stopped inside: prompts take less time in long chunks.
        ls_chunk_tokens: Token budget of a latency-sensitive iteration, its decodes not counted: it bounds how long those take.
        ls_stretch: How much longer best-effort companions may make a latency-sensitive iteration, 0.15 for 15 %.
        ls_alone_share: Share of the time that latency-sensitive iterations may take with no more than that; 1: always.
        ls_shared_stretch: How much longer companions may make one where they take more, if that is more.
        ls_tpot_s: How long a latency-sensitive iteration may take in any case; companions fill it up to that. 0: no such target.
        preemption_quantum_s: Bound on best-effort work sent and not done while latency-sensitive work is there.
        command_window_s: Bound on latency-sensitive work sent and not done: nobody stops it, and whoever is to go along with it
            can do so from the next command on.
        control_lead_s: How long before the worker runs dry the next unit is sent.
    """

    max_num_seqs: int = 256
    be_chunk_tokens: int = 256
    be_max_chunk_tokens: int = 1024
    ls_chunk_tokens: int = 512
    ls_stretch: float = 0.15
    ls_alone_share: float = 0.5
    ls_shared_stretch: float = 1.0
    ls_tpot_s: float = 0.0
    preemption_quantum_s: float = 0.005
    command_window_s: float = 0.1
    control_lead_s: float = 0.001


class Policy(ABC):
    """Base of all policies: first come, first served inside each queue, and nobody goes along.

    Attributes:
        name: What `--policy` selects it by.
        preempt_at: The only granularity that the policy knows; None: the operator chooses.
        be_sequel_margin: Margin of best-effort sequels; None: it has none.
    """

    name: ClassVar[str]
    preempt_at: ClassVar[PreemptAt | None] = None
    be_sequel_margin: ClassVar[float | None] = None

    def queue_class(self, sequence: Sequence) -> RequestClass:
        """Returns the class whose queues the sequence stands in."""
        return sequence.request_class

    def queue_key(self, sequence: Sequence) -> tuple[float, ...]:
        """Returns what its queue is ordered by, lowest first."""
        return (sequence.arrival_s, sequence.seq_id)

    def best_effort_margin(self, view: View) -> float | None:
        """Returns the margin of best-effort sequels; None where none is begun.

        On cores there is none: scheduling takes its time from an iteration that all of them wait in, rather than from the pause
        behind it.
        """
        return None if view.computes_on_cpu else self.be_sequel_margin

    def best_effort(self, view: View, plan: Callable[[View], BatchPlan]) -> Iterator[Choice]:
        """Yields what best-effort work can run: the batch under way, a new one, or the sequel of one whose result is awaited.

        While latency-sensitive work is there, that goes before a sequel.
        """
        if batch := view.open_batch(RequestClass.BEST_EFFORT):
            yield batch
        elif not view.awaits_result(RequestClass.BEST_EFFORT):
            yield plan(view)
        elif not view.has_latency_sensitive and (margin := self.best_effort_margin(view)) is not None:
            yield Sequel(RequestClass.BEST_EFFORT, partial(plan, view), margin)

    @abstractmethod
    def preferences(self, view: View) -> Iterator[Choice]:
        """Yields what to run next, best first: a batch to go on with, a plan for a new one, or a sequel.

        The first possible one runs.
        """

    def companions(self, view: View, batch: Batch) -> Iterator[Batch]:
        """Yields the batches that should run jointly with `batch` from where they stand on."""
        yield from ()

    def window_s(self, view: View, batch: Batch) -> float | None:
        """Returns how many seconds of the batch's work may be sent and not done; None for all of its iteration.

        Best-effort work alone is sent whole: an arrival has it cut short at the next boundary, and each command that it were
        divided into would take the scheduler's time from cores that a model may be computed on.
        """
        if batch.request_class is RequestClass.LATENCY_SENSITIVE:
            return view.limits.command_window_s
        return view.limits.preemption_quantum_s if view.has_latency_sensitive else None
