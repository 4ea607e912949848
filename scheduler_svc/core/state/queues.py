"""The four queues: latency-sensitive and best-effort, prefill and decode.

Each serves the lowest key first (arrival, unless a policy says otherwise). Adding, taking and removing cost O(log n),
so a long queue does not slow a decision. Source: arXiv 2503.09304, section 3.
"""

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.sequence import Phase, RequestClass, Sequence

QueueKey = Callable[[Sequence], tuple[float, ...]]


class QueueName(NamedTuple):
    """Which of the four."""

    request_class: RequestClass
    phase: Phase


LS_PREFILL = QueueName(RequestClass.LATENCY_SENSITIVE, Phase.PREFILL)
LS_DECODE = QueueName(RequestClass.LATENCY_SENSITIVE, Phase.DECODE)
BE_PREFILL = QueueName(RequestClass.BEST_EFFORT, Phase.PREFILL)
BE_DECODE = QueueName(RequestClass.BEST_EFFORT, Phase.DECODE)


class SequenceQueue:
    """Sequences in the order of their key; removal is lazy: an entry whose ticket is void is skipped.

    Attributes:
        num_tokens_ahead: Tokens that its members have before them, all together.
    """

    def __init__(self, key: QueueKey) -> None:
        self._key = key
        self._heap: list[tuple[tuple[float, ...], int, Sequence]] = []
        self._tickets: dict[SeqId, int] = {}
        self._next_ticket = count()
        self.num_tokens_ahead = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Sequence]:
        """Yields the members in no particular order."""
        return (seq for _, ticket, seq in self._heap if self._tickets.get(seq.seq_id) == ticket)

    def push(self, sequence: Sequence) -> None:
        """Adds a sequence."""
        ticket = next(self._next_ticket)
        self._tickets[sequence.seq_id] = ticket
        self.num_tokens_ahead += sequence.num_tokens_ahead
        heapq.heappush(self._heap, (self._key(sequence), ticket, sequence))

    def peek(self) -> Sequence | None:
        """Returns the first sequence without taking it; None if there is none."""
        while self._heap:
            _, ticket, sequence = self._heap[0]
            if self._tickets.get(sequence.seq_id) == ticket:
                return sequence
            heapq.heappop(self._heap)
        return None

    def pop(self) -> Sequence | None:
        """Takes the first sequence; None if there is none."""
        while self._heap:
            _, ticket, sequence = heapq.heappop(self._heap)
            if self._tickets.get(sequence.seq_id) == ticket:
                del self._tickets[sequence.seq_id]
                self.num_tokens_ahead -= sequence.num_tokens_ahead
                return sequence
        return None

    def remove(self, sequence: Sequence) -> None:
        """Takes a given member out, as it was pushed."""
        del self._tickets[sequence.seq_id]
        self.num_tokens_ahead -= sequence.num_tokens_ahead
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._tickets):
            self._heap = [entry for entry in self._heap if self._tickets.get(entry[2].seq_id) == entry[1]]
            heapq.heapify(self._heap)


class Queues:
    """The four queues; a sequence stands in the one of its effective class and phase."""

    def __init__(self, key: QueueKey) -> None:
        names = (LS_PREFILL, LS_DECODE, BE_PREFILL, BE_DECODE)
        self._queues: dict[tuple[RequestClass, Phase], SequenceQueue] = {name: SequenceQueue(key) for name in names}

    def __getitem__(self, name: QueueName) -> SequenceQueue:
        return self._queues[name]

    def __iter__(self) -> Iterator[SequenceQueue]:
        return iter(self._queues.values())

    def of(self, sequence: Sequence) -> SequenceQueue:
        """Returns the queue that the sequence belongs in."""
        return self._queues[sequence.effective_class, sequence.phase]

    def num_waiting(self, request_class: RequestClass) -> int:
        """Counts the members of both queues of a class."""
        return len(self._queues[request_class, Phase.PREFILL]) + len(self._queues[request_class, Phase.DECODE])
