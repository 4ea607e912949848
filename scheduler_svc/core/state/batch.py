"""A batch: sequences that go through the layers together, and where it stands.

A batch is a suspended iteration: it can be left at any cursor and taken up again. Knows nothing of how it is run.
Source: arXiv 2503.09304, section 4.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler_svc.core.state.cursor import START, Cursor
from scheduler_svc.core.state.ids import BatchId, BlockId, SeqId
from scheduler_svc.core.state.sequence import RequestClass, Sequence


class Member(NamedTuple):
    """A sequence's part in the iteration: `num_tokens` tokens from `first_position` on, which need `new_block_ids`.

    How probable the `num_scored` tokens are that follow the first ones of these is told when it ends. Those of
    `also_sampled` have their next token from its logits too.
    """

    sequence: Sequence
    num_tokens: int
    first_position: int
    samples: bool
    new_block_ids: tuple[BlockId, ...] = ()
    num_scored: int = 0
    also_sampled: tuple[Sequence, ...] = ()

    @property
    def num_sequences(self) -> int:
        """Sequences that take part."""
        return 1 + len(self.also_sampled)

    @property
    def num_rows(self) -> int:
        """Rows that are sampled or scored."""
        return self.samples * self.num_sequences + self.num_scored

    @property
    def num_pairs(self) -> int:
        """Query-key pairs of its attention, counted as tokens times context."""
        return self.num_tokens * (self.first_position + self.num_tokens)

    @property
    def shape(self) -> "Shape":
        """What it adds to a pass that runs anyway."""
        return Shape(self.num_tokens, self.num_pairs, self.num_rows, 0)


@dataclass(frozen=True, slots=True)
class Shape:
    """What an iteration costs depends on these numbers alone: tokens, query-key pairs, sampled rows, passes."""

    num_tokens: int
    num_pairs: int
    num_rows: int
    num_passes: int = 1

    @classmethod
    def of(cls, members: Iterable[Member]) -> "Shape":
        """Sums the members of one batch."""
        num_tokens = num_pairs = num_rows = 0  # in one pass: it is in the way of every iteration
        for member in members:
            num_tokens += member.num_tokens
            num_pairs += member.num_pairs
            num_rows += member.num_rows
        return cls(num_tokens, num_pairs, num_rows)

    @classmethod
    def of_chunk(cls, num_tokens: int, context: int, num_rows: int = 1, num_passes: int = 1) -> "Shape":
        """Counts some tokens of one sequence, after the last of which it has `context` tokens."""
        return cls(num_tokens, num_tokens * context, num_rows, num_passes)

    @classmethod
    def of_decodes(cls, sequences: Iterable[Sequence], num_passes: int = 1) -> "Shape":
        """Sums one more token of each sequence."""
        contexts = [sequence.num_tokens for sequence in sequences]
        return cls(len(contexts), sum(contexts), len(contexts), num_passes)

    def __add__(self, other: "Shape") -> "Shape":
        return Shape(
            self.num_tokens + other.num_tokens,
            self.num_pairs + other.num_pairs,
            self.num_rows + other.num_rows,
            self.num_passes + other.num_passes,
        )


@dataclass(slots=True, eq=False)
class Batch:
    """One iteration of some sequences.

    Attributes:
        request_class: LATENCY_SENSITIVE if any member is.
        members: Its live sequences; one that is aborted leaves, and its rows are computed no further.
        issued: Where it stands once all commands sent so far are done.
        reached: Where it stands by what the worker has answered.
        end: The cursor after the last layer.
        sequel: The iteration after it, begun before its result is known; holds those of its sequences that go on. This
            one can't be cut short any more then.
        num_passed: Times that a later latency-sensitive iteration went ahead of this one, which stood meanwhile.
        num_in_flight: Steps of it that are sent and not answered.
        is_preempted: Whether those were cut short, so that where it stands is known only once all are answered.
        shape: What its iteration costs.
        num_be_tokens: Tokens in it that are best-effort sequences'.
    """

    batch_id: BatchId
    request_class: RequestClass
    members: list[Member]
    end: Cursor
    issued: Cursor = START
    reached: Cursor = START
    sequel: "Batch | None" = None
    num_passed: int = 0
    num_in_flight: int = 0
    is_preempted: bool = False
    shape: Shape = field(init=False)
    num_be_tokens: int = field(init=False)
    _seq_ids: set[SeqId] = field(init=False)

    def __post_init__(self) -> None:
        self._measure()

    @property
    def is_issued(self) -> bool:
        """Whether commands for the whole iteration have been sent, so that only its result is awaited."""
        return self.issued >= self.end

    @property
    def is_resident(self) -> bool:
        """Whether every member's cache is on the device; otherwise the batch must not be advanced."""
        return all(not member.sequence.is_offloaded for member in self.members)

    @property
    def is_begun(self) -> bool:
        """Whether the worker has answered that it stands inside the iteration."""
        return START < self.reached < self.end

    @property
    def is_suspended(self) -> bool:
        """Whether it stands inside the iteration: begun and not issued to the end."""
        return START < self.issued < self.end

    @property
    def is_suspect(self) -> bool:
        """Whether its sequence may have killed a worker, and so runs alone."""
        return bool(self.members) and self.members[0].sequence.is_suspect

    def holds(self, sequence: Sequence) -> bool:
        """Whether the sequence is a live member."""
        return sequence.seq_id in self._seq_ids

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out that ended early."""
        self.members = [member for member in self.members if member.sequence is not sequence]
        self._measure()

    def _measure(self) -> None:
        self._seq_ids = {member.sequence.seq_id for member in self.members}
        self.shape = Shape.of(self.members)
        best_effort = (m.num_tokens for m in self.members if m.sequence.request_class is RequestClass.BEST_EFFORT)
        self.num_be_tokens = sum(best_effort)
