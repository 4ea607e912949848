"""What a policy is: pure choices about what runs next, in what order, and who goes along.

A policy sees numbers and batches through a `View`, never a tensor, a clock or a socket; the scheduler carries its
choices out. Source: arXiv 2503.09304, section 3 (user-defined policies).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, NamedTuple, Protocol

from qllm.settings import ADVANCED, MEMORY, SCHEDULING, Setting

from scheduler_svc.core.prediction.outlook import Outlook
from scheduler_svc.core.state.batch import Batch
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.queues import QueueName
from scheduler_svc.core.state.sequence import RequestClass, Sequence

# By how much a turn goes ahead whose program's cache is kept: it is soon done, and gives up memory that others need.
# Without a bound, programs that return at once would starve them.
KEPT_AHEAD_S = 600.0


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How to fill a new batch: from which queues, in order, and up to what.

    Attributes:
        sources: Queues to fill it from, the first as far as it goes, then the next.
        max_sequences: Most sequences; where more decode than that, they take turns.
        max_tokens: Most tokens of one iteration; a longer prompt is split into chunks. None: whole prompts.
        filler: Queues to take along from, in order, while the predicted iteration is in time for whom it is for
            (`core.prediction.promise`); nobody gives up memory for them.
        needs: Nobody runs unless there is room for the first one of this queue; None: whoever can.
    """

    sources: tuple[QueueName, ...]
    max_sequences: int
    max_tokens: int | None = None
    filler: tuple[QueueName, ...] = ()
    needs: QueueName | None = None


@dataclass(frozen=True, slots=True)
class Sequel:
    """The iteration after one whose result is awaited, begun before the result is known.

    Its sequences are those that cannot end by length; the worker passes over one that ended by a stop token. From then
    on the iteration that it follows runs to its end.

    Attributes:
        request_class: Whose iteration it follows.
        plan: Makes what to fill it up with; called when it is time.
        margin: How much earlier it is begun than the predicted end and the lead ask for, in iterations: predictions are
            off so much, and whoever arrives after it is begun waits.
    """

    request_class: RequestClass
    plan: Callable[[], BatchPlan]
    margin: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing new for so many seconds, unless something happens: what was sent goes on meanwhile."""

    seconds: float


Choice = Batch | BatchPlan | Sequel | Pause


class Ahead(NamedTuple):
    """Sequences of a class and phase, and the tokens before them: of prompts to compute, or, at most, of outputs."""

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
        """Counts the sequences of a class and phase, those under way too, and the tokens that they have before them."""

    def open_batch(self, request_class: RequestClass) -> Batch | None:
        """Returns the class's batch that has part of its iteration still to be sent; None if there is none."""

    def awaits_result(self, request_class: RequestClass) -> bool:
        """Whether a batch of the class was sent to its end or cut short, so that the next step waits for a result."""

    def owes_best_effort(self) -> bool:
        """Whether the starvation guard says that best-effort work goes first now."""

    @property
    def has_latency_sensitive(self) -> bool:
        """Whether any latency-sensitive work is under way or waits."""

    @property
    def outlook(self) -> Outlook:
        """What is foreseen: of latency-sensitive work and its time, and of what can be done beside it."""

    def may_cut_in(self) -> bool:
        """Whether a latency-sensitive prompt may run ahead of all iterations under way."""

    def may_be_passed(self, batch: Batch) -> bool:
        """Whether a prompt may run ahead of an iteration: it carries best-effort work, and was not passed too often."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers that policies plan with; times are in seconds.

    Attributes:
        control_lead_s: How long before the worker runs dry the next unit is sent.
    """

    # Bounds what an iteration keeps in memory and what a decision takes, not an iteration's time: whatever another
    # sequence costs there, an iteration of its own costs more.
    max_num_seqs: Annotated[
        int,
        Setting(1, 4096, panel=MEMORY),
        "Limits how many sequences one iteration computes together: a request is one sequence, or one for each of its "
        "choices or beams. Where there are more, they take turns. The policy paper takes 32 at most, whatever is set "
        "here.",
    ] = 256
    # Bounds how long those that decode wait for a token.
    be_chunk_tokens: Annotated[
        int,
        Setting(1, 1 << 20, panel=SCHEDULING),
        "Limits the tokens of one iteration of best-effort work. Longer prompts are computed in parts.",
    ] = 256
    # Prompts take less time in long chunks; only an iteration that can be stopped inside may be so long.
    be_max_chunk_tokens: Annotated[
        int,
        Setting(1, 1 << 20, panel=SCHEDULING),
        "Lets one iteration of best-effort work have more tokens than --be-chunk-tokens, up to this number, while no "
        "best-effort request generates tokens yet or many prompts wait. It has an effect with the policy qllm only, "
        "and none with --preempt-at iteration.",
    ] = 1024
    # Bounds how long its decodes take, which are not counted.
    ls_chunk_tokens: Annotated[
        int,
        Setting(1, 1 << 20, panel=SCHEDULING),
        "Limits the tokens of prompts in one iteration of latency-sensitive requests. Longer prompts are computed in "
        "parts, so that the other requests soon get their next token.",
    ] = 512
    ls_tpot_s: Annotated[
        float,
        Setting(0, 60_000, option="ls-tpot-ms", scale=1e3, panel=SCHEDULING),
        "Promises latency-sensitive requests a token every so many milliseconds after the first one, where the machine "
        "is fast enough. Best-effort work fills the time that this leaves. With 0 latency-sensitive requests are "
        "computed by themselves, as fast as possible.",
    ] = 0.05
    ls_ttft_s: Annotated[
        float,
        Setting(0, 3_600_000, option="ls-ttft-ms", scale=1e3, panel=SCHEDULING),
        "Promises latency-sensitive requests their first token within so many milliseconds, where the machine is fast "
        "enough. Best-effort work fills the time that this leaves. With 0 the first token comes as soon as possible, "
        "as on an idle server.",
    ] = 0.0
    preemption_quantum_s: Annotated[
        float,
        Setting(0.1, 10_000, option="preemption-quantum-ms", scale=1e3, panel=ADVANCED),
        "Limits how many milliseconds of best-effort work are sent to the worker ahead of time while latency-sensitive "
        "requests are there.",
    ] = 0.005
    # Nobody stops what was sent, and whoever is to go along with it can do so from the next command on.
    command_window_s: Annotated[
        float,
        Setting(0.1, 10_000, option="command-window-ms", scale=1e3, panel=ADVANCED),
        "Limits how many milliseconds of latency-sensitive work are sent to the worker ahead of time. It may not be "
        "less than --preemption-quantum-ms.",
    ] = 0.1
    control_lead_s: float = 0.001


class Policy(ABC):
    """Base of all policies: first come, first served inside each queue, by program, and nobody goes along.

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
        """Returns what its queue is ordered by, lowest first: when its program came, less what a kept cache gains it.

        Nobody so waits for those who come more than two bounded times after it (`KEPT_AHEAD_S`, and what `order_s` may
        lie back). Source: arXiv 2511.02230, where the order has no bound.
        """
        came_s = sequence.arrival_s if sequence.order_s is None else sequence.order_s
        return (came_s - KEPT_AHEAD_S if sequence.goes_ahead else came_s, sequence.arrival_s, sequence.seq_id)

    def best_effort_margin(self, view: View) -> float | None:
        """Returns the margin of best-effort sequels; None where none is begun.

        On cores there is none: scheduling takes its time from an iteration that all of them wait in, rather
        than from the pause behind it.
        """
        return None if view.computes_on_cpu else self.be_sequel_margin

    def best_effort(self, view: View, plan: Callable[[View], BatchPlan]) -> Iterator[Choice]:
        """Yields what best-effort work can run: the batch under way, a new one, or the sequel of one awaiting a result.

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
        """Yields what to run next, best first: a batch to go on with, a plan for a new one, a sequel, or a pause.

        The first possible one runs. Where a pause comes first, nothing is sent.
        """

    def companions(self, view: View, batch: Batch) -> Iterator[Batch]:
        """Yields the batches that should run jointly with `batch` from where they stand on."""
        yield from ()

    def window_s(self, view: View, batch: Batch) -> float | None:
        """Returns how many seconds of the batch's work may be sent and not done; None for all of its iteration.

        A number is finite: infinity is refused, as None says it.

        Best-effort work alone is sent whole: an arrival has it cut short at the next boundary, and each command that it
        were divided into would take the scheduler's time from cores that a model may be computed on.
        """
        if batch.request_class is RequestClass.LATENCY_SENSITIVE:
            return view.limits.command_window_s
        return view.limits.preemption_quantum_s if view.has_latency_sensitive else None
