"""Sequences that a worker died running. Each runs alone until it is past the token where that happened.

So a second death tells who it was, and all others live. Knows no worker.
"""

from collections.abc import Container, Iterator

from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.queues import QueueName
from scheduler_svc.core.state.sequence import Sequence, SequenceState


class Suspects:
    """Those of one life of a worker: only what an earlier life left makes a sequence one."""

    def __init__(self) -> None:
        self._sequences: dict[SeqId, Sequence] = {}

    def add(self, sequence: Sequence) -> None:
        """Takes in a sequence that is queued, if it is one."""
        if sequence.is_suspect:
            self._sequences[sequence.seq_id] = sequence

    def waiting_in(self, queues: Container[QueueName]) -> Iterator[Sequence]:
        """Yields those that wait in one of these queues."""
        if not self._sequences:
            return
        for sequence in tuple(self._sequences.values()):
            if not sequence.is_suspect or sequence.state is SequenceState.FINISHED:
                del self._sequences[sequence.seq_id]
            elif sequence.state is SequenceState.QUEUED and (sequence.effective_class, sequence.phase) in queues:
                yield sequence
