"""The choices of one prompt: one of them computes it, and all have their first token from its last logits.

    leader   ──prompt──▶ logits ──▶ its token ────────▶ goes on by itself
    others    held         ├──────▶ their own tokens ─▶ fork from the leader, and go on by themselves
                           ╰ each drawn by its own seed

Where the leader ends before that, another one leads. One for whose copy there is no room computes the prompt again.
Who has its first token is no kin of the others any more.
"""

from collections.abc import Mapping, Sequence

from scheduler_svc.core.state import sequence as state
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.kin import ALONE, Branching
from scheduler_svc.core.state.results import Output, SampledToken
from scheduler_svc.core.state.sequence import SequenceState


class Choices:
    """Sequences with one prompt, each of which stands for a request of its own.

    Args:
        sequences: They, none of which has begun.
    """

    def __init__(self, sequences: Sequence[state.Sequence]) -> None:
        self._sequences = tuple(sequences)

    def own(self, sequence: state.Sequence) -> tuple[state.Sequence, ...]:
        """Returns the sequence."""
        return (sequence,)

    def request_of(self, sequence: state.Sequence) -> state.Sequence:
        """Returns the sequence."""
        return sequence

    def enters(self, sequence: state.Sequence) -> None:
        """Holds a sequence that another one's prompt is computed for."""
        is_led = not sequence.output_token_ids and sequence is not self._leader
        sequence.state = SequenceState.HELD if is_led else SequenceState.QUEUED

    def is_awaited(self, sequence: state.Sequence) -> bool:
        """Whether any wait for its first token."""
        return bool(self.also_sampled(sequence))

    def also_sampled(self, sequence: state.Sequence) -> tuple[state.Sequence, ...]:
        """Returns those that wait for the leader's first token."""
        return self._held if sequence is self._leader else ()

    def take(
        self, sequence: state.Sequence, sampled: Mapping[SeqId, SampledToken], now_s: float, branching: Branching
    ) -> list[Output]:
        """Appends a token to a sequence, and its first one to each that waited for it."""
        if (token := sampled.get(sequence.seq_id)) is None:
            return []
        outputs: list[Output] = []
        for other in self.also_sampled(sequence):  # first: once the leader ends there is nothing to fork from
            if first := sampled.get(other.seq_id):
                outputs += self._begin(other, first, sequence, now_s, branching)
        outputs += branching.append(sequence, token, now_s)
        sequence.kin = ALONE
        self._lead(branching)
        return outputs

    def leaves(self, sequence: state.Sequence, branching: Branching) -> None:
        """Has another one lead where the leader ended."""
        self._lead(branching)

    @property
    def _leader(self) -> state.Sequence | None:
        """The first that has no token yet; None where all have, or have ended."""
        waiting = (one for one in self._sequences if one.state is not SequenceState.FINISHED)
        return next((one for one in waiting if not one.output_token_ids), None)

    @property
    def _held(self) -> tuple[state.Sequence, ...]:
        return tuple(one for one in self._sequences if one.state is SequenceState.HELD)

    def _lead(self, branching: Branching) -> None:
        """Has another one lead if the leader is gone. The worker may have sampled for it what nobody heard of."""
        leader = self._leader
        if leader is not None and leader.state is SequenceState.HELD:
            branching.give_up_cache(leader)
            branching.release(leader)

    @staticmethod
    def _begin(
        sequence: state.Sequence, token: SampledToken, leader: state.Sequence, now_s: float, branching: Branching
    ) -> list[Output]:
        """Gives a sequence its first token, and what the leader has computed unless it ends with that."""
        sequence.first_run_s = leader.first_run_s
        if token.finish_reason is None and not sequence.ends_next:
            branching.fork(leader, sequence)
        outputs = branching.append(sequence, token, now_s)
        sequence.kin = ALONE
        if sequence.state is not SequenceState.FINISHED:
            branching.release(sequence)
        return outputs
