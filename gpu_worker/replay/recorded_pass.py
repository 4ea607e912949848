"""One decode of a batch by a recording, suspended wherever a segment ends.

To whoever drives it it is a pass like any other (`passes.interface.Pass`). It knows no commands and no policy.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from gpu_worker.cache.placement import Placement
from gpu_worker.cache.span import Span
from gpu_worker.cursor import Cursor
from gpu_worker.errors import PassFailed
from gpu_worker.experts.queues import ExpertQueues
from gpu_worker.passes.forward import GoesOn, RunExperts
from gpu_worker.passes.unit import Unit
from gpu_worker.replay.recording import Recording


class RecordedPass:
    """One decode of a batch by a recording, suspended wherever a segment ends; to its driver it is as a ForwardPass.

    Args:
        recording: What it replays; it is leased until the pass is closed.
        spans: The sequences, one new row each.
        token_ids: Their tokens.
        expert_share: Share of a layer's time that its experts take.
        mark: Marks the end of the work so far.

    Attributes:
        cursor: Where it stands.
        logits: The head's output (spans, V) once the iteration is over.
        layers_done: The mark when the last layer was done.
        is_closed: Whether it was ended before it was over.
    """

    def __init__(
        self,
        recording: Recording,
        spans: Sequence[Span],
        token_ids: Sequence[int],
        expert_share: float,
        mark: Callable[[], object],
    ) -> None:
        recording.is_leased = True
        recording.fill(token_ids, [span.first_position for span in spans])
        self._recording = recording
        self._spans = spans
        self._expert_share = expert_share
        self._mark = mark
        self._next = 0
        self._placed: object = None
        self.cursor = Cursor(0)
        self.logits: Tensor | None = None
        self.layers_done: object = None
        self.is_closed = False

    @property
    def next_unit(self) -> Unit:
        """The next segment."""
        num_live = sum(not span.dropped for span in self._spans)
        return self._recording.unit(self._next, num_live, self._expert_share)

    @property
    def must_reach(self) -> Cursor:
        """Where its next unit ends."""
        segments = self._recording.segments
        return Cursor(segments[self._next].stop) if self._next < len(segments) else self.cursor

    @property
    def suspended_bytes(self) -> int:
        """Bytes of the recording that it keeps from others."""
        return 0 if self.is_closed else self._recording.nbytes

    @property
    def expert_queues(self) -> ExpertQueues:
        """Raises PassFailed: it waits for no experts."""
        raise PassFailed(f"a recorded pass stands at {self.cursor} and waits for no experts")

    def run_attention(self, run_experts: RunExperts | None, goes_on: GoesOn) -> None:
        """Runs the next segment, experts included."""
        placed = Placement.state(self._spans)
        if placed != self._placed:
            self._recording.placement.place(self._spans)
            self._placed = placed
        self._recording.replay(self._next)
        self.cursor = self.must_reach
        self._next += 1
        if self._next == len(self._recording.segments):
            self.layers_done = self._mark()
            self.logits = self._recording.logits[: len(self._spans)]

    def deliver(self, goes_on: GoesOn) -> None:
        """Raises PassFailed: it waits for no experts."""
        raise PassFailed("a recorded pass waits for no experts")

    def note_expert_run(self) -> None:
        """Nothing: it waits for no experts."""

    def drop(self, span: Span) -> None:
        """Computes the row of a span no further."""
        span.dropped = True
        if all(s.dropped for s in self._spans):
            self.close()

    def close(self) -> None:
        """Ends the pass wherever it stands and gives the recording back."""
        if not self.is_closed:
            self.is_closed = True
            self._recording.is_leased = False
            self.logits = None
            self.cursor = Cursor(self._recording.segments[-1].stop)


class Recordings:
    """The recordings of a model, for different numbers of sequences.

    Args:
        recordings: Rising in rows.
        expert_share: Share of a layer's time that its experts take.
        mark: Marks the end of the work so far.
    """

    def __init__(self, recordings: Sequence[Recording], expert_share: float, mark: Callable[[], object]) -> None:
        self._recordings = recordings
        self._expert_share = expert_share
        self._mark = mark

    def take(self, spans: Sequence[Span], token_ids: Sequence[int]) -> RecordedPass | None:
        """A pass of sequences, each with one new token whose logits it wants; None if no recording is free for them."""
        for recording in self._recordings:
            if not recording.is_leased and recording.placement.fits(spans):
                return RecordedPass(recording, spans, token_ids, self._expert_share, self._mark)
        return None
