"""What becomes of what is sampled for a sequence: it is appended, or decides which other sequences go on from there.

    iterations ──sampled──▶ sequence.kin ──append, branch, release, ...──▶ Branching: what a decision does

Most sequences stand alone. Others share one prompt, or are the beams of one search; the core's loop asks each in the
same way. This says what it asks, and what it offers; it decides nothing.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from scheduler_svc.core.state.ids import SeqId

if TYPE_CHECKING:
    from scheduler_svc.core.state.results import Output, SampledToken
    from scheduler_svc.core.state.sequence import Sequence


class Branching(Protocol):
    """What can be done with the sequences of a kin, by whoever owns queues and memory."""

    def append(self, sequence: "Sequence", sampled: "SampledToken", now_s: float) -> "list[Output]":
        """Gives a sequence its next token, tells its caller, and ends it where that was the last one."""

    def count_token(self, sequence: "Sequence", now_s: float) -> None:
        """Counts a token that a sequence was given already."""

    def release(self, sequence: "Sequence") -> None:
        """Lets a sequence that was held run."""

    def branch(self, parent: "Sequence", child: "Sequence") -> None:
        """Has a new sequence run that has all of its parent's tokens and one more."""

    def fork(self, parent: "Sequence", child: "Sequence") -> None:
        """Gives a sequence that holds nothing what its parent has computed, if there is room for that."""

    def retire(self, sequence: "Sequence") -> None:
        """Gives up a sequence that stands for no request, and of which nothing becomes."""

    def give_up_cache(self, sequence: "Sequence") -> None:
        """Gives up what is computed of a sequence, which is then held."""

    def finish(self, sequence: "Sequence", now_s: float) -> None:
        """Ends a sequence whose answer is whole."""

    def end(self, sequence: "Sequence") -> None:
        """Ends a sequence whose answer is not."""


class Kin(Protocol):
    """One or several sequences that a request, or several requests, begin alike."""

    def own(self, sequence: "Sequence") -> "tuple[Sequence, ...]":
        """Returns the sequences that run for the request of this one."""

    def request_of(self, sequence: "Sequence") -> "Sequence":
        """Returns the sequence that stands for the request of this one."""

    def enters(self, sequence: "Sequence") -> None:
        """Notes that a sequence is about to be queued, where it is not to be held."""

    def is_awaited(self, sequence: "Sequence") -> bool:
        """Whether others wait for what is sampled next for it, so that it may not go on before that is known."""

    def also_sampled(self, sequence: "Sequence") -> "tuple[Sequence, ...]":
        """Returns the sequences that have their next token from the same logits."""

    def take(
        self, sequence: "Sequence", sampled: "Mapping[SeqId, SampledToken]", now_s: float, branching: Branching
    ) -> "list[Output]":
        """Takes in what was sampled for a sequence, and for those of which it was also sampled."""

    def leaves(self, sequence: "Sequence", branching: Branching) -> None:
        """Takes in that a sequence has ended."""


class Alone:
    """The kin of a sequence that has none: each token is appended."""

    def own(self, sequence: "Sequence") -> "tuple[Sequence, ...]":
        """Returns the sequence."""
        return (sequence,)

    def request_of(self, sequence: "Sequence") -> "Sequence":
        """Returns the sequence."""
        return sequence

    def enters(self, sequence: "Sequence") -> None:
        """Holds nobody."""

    def is_awaited(self, sequence: "Sequence") -> bool:
        """Nobody waits."""
        return False

    def also_sampled(self, sequence: "Sequence") -> "tuple[Sequence, ...]":
        """There are no others."""
        return ()

    def take(
        self, sequence: "Sequence", sampled: "Mapping[SeqId, SampledToken]", now_s: float, branching: Branching
    ) -> "list[Output]":
        """Appends the token, if there is one."""
        token = sampled.get(sequence.seq_id)
        return [] if token is None else branching.append(sequence, token, now_s)

    def leaves(self, sequence: "Sequence", branching: Branching) -> None:
        """Concerns nobody else."""


ALONE = Alone()
