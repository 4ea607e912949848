"""The beams of one search: sequences like any others, each of which has to report before any goes on.

    beams, one token each ──candidates──▶ all have reported ──▶ BeamSearch ──▶ a child: the same sequence goes on
         ▲     (held meanwhile)                                                 further children: branch from it
         ╰──────────────────────────────────────────────────────────────────── no child: retired

A beam that has reported waits without being run, and gives way to others, its own kin too: so they need not all fit on
the device together. The search outlives workers: what was reported needs no worker any more.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from scheduler_svc.core.beams.params import BeamParams
from scheduler_svc.core.beams.search import BeamSearch, Candidate, Finished
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.kin import Branching
from scheduler_svc.core.state.results import FailureOutput, HypothesesOutput, Hypothesis, Output, SampledToken
from scheduler_svc.core.state.sequence import FinishReason, Sequence, SequenceState

_NOTHING_LEFT = "its rules leave no token to any beam: structure, allowed tokens, bad words and min_tokens exclude all"


class BeamGroup:
    """One search, from a sequence that stands for its request for as long as it goes on.

    Args:
        root: That sequence, which is the first beam; where its text comes to nothing it is held, and holds nothing.
        params: How to search.
        new_id: Gives ids for sequences.
    """

    def __init__(self, root: Sequence, params: BeamParams, new_id: Callable[[], SeqId]) -> None:
        stop = root.stop
        self._root = root
        self._num_returned = params.num_returned
        self._search = BeamSearch(params, frozenset(stop.stop_token_ids), stop.max_tokens)
        self._new_id = new_id
        self._beams = [root]
        self._reported: dict[SeqId, tuple[Candidate, ...]] = {}

    def own(self, sequence: Sequence) -> tuple[Sequence, ...]:
        """Returns all beams, and the one that stands for the request."""
        return (self._root, *(beam for beam in self._beams if beam is not self._root))

    def request_of(self, sequence: Sequence) -> Sequence:
        """Returns the sequence that stands for the request."""
        return self._root

    def enters(self, sequence: Sequence) -> None:
        """Holds nobody: who waits for others is held already."""

    def is_awaited(self, sequence: Sequence) -> bool:
        """Each token is chosen here."""
        return True

    def also_sampled(self, sequence: Sequence) -> tuple[Sequence, ...]:
        """A beam's candidates are its own."""
        return ()

    def take(
        self, sequence: Sequence, sampled: Mapping[SeqId, SampledToken], now_s: float, branching: Branching
    ) -> list[Output]:
        """Takes in a beam's candidates; the last one to report has the search go on."""
        if (told := sampled.get(sequence.seq_id)) is None:
            return []
        if told.candidates is None:  # no worker that is in order chooses here
            return [self._fail("the worker told no candidates", branching)]
        self._reported[sequence.seq_id] = told.candidates
        sequence.state = SequenceState.HELD
        if len(self._reported) < len(self._beams):
            return []
        rows = [self._reported[beam.seq_id] for beam in self._beams]
        self._reported.clear()
        return self._go_on(rows, now_s, branching)

    def leaves(self, sequence: Sequence, branching: Branching) -> None:
        """Gives up all beams once the request has ended."""
        beams, self._beams = self._beams, []
        for beam in beams:
            if beam is not self._root:
                branching.retire(beam)

    def _go_on(self, rows: list[tuple[Candidate, ...]], now_s: float, branching: Branching) -> list[Output]:
        children = self._search.advance(rows)
        if self._search.is_over:
            if self._search.finished:
                return [self._finish(now_s, branching)]
            return [self._fail(_NOTHING_LEFT, branching, rules_leave_nothing=True)]
        parents, going_on = self._beams, {child.parent for child in children}
        for index, parent in enumerate(parents):
            if index not in going_on:  # first: what it holds may be what another one's copy needs
                self._give_up(parent, branching)
        in_place: dict[int, int] = {}
        self._beams = []
        for child in children:
            parent, token_id = parents[child.parent], child.beam.token_id
            if in_place.setdefault(child.parent, token_id) == token_id:
                self._beams.append(parent)
            else:
                self._beams.append(branch := parent.branch(self._new_id()))
                branch.append(token_id, now_s)
                branching.branch(parent, branch)
        for index, token_id in in_place.items():  # last: what branches from it stands where it stood before
            parents[index].append(token_id, now_s)
            branching.count_token(parents[index], now_s)
            branching.release(parents[index])
        return []

    def _give_up(self, beam: Sequence, branching: Branching) -> None:
        if beam is self._root:
            branching.give_up_cache(beam)
        else:
            branching.retire(beam)

    def _fail(self, message: str, branching: Branching, *, rules_leave_nothing: bool = False) -> FailureOutput:
        branching.end(self._root)
        return FailureOutput(self._root.seq_id, message, rules_leave_nothing)

    def _finish(self, now_s: float, branching: Branching) -> HypothesesOutput:
        root, hypotheses = self._root, tuple(map(_hypothesis, self._search.finished[: self._num_returned]))
        num_preemptions = max(beam.num_preemptions for beam in self.own(root))
        # From here on it has the tokens of the answer, by which times are judged.
        root.output_token_ids = list(hypotheses[0].token_ids)
        if root.first_token_s is None:
            root.first_token_s = now_s
            branching.count_token(root, now_s)
        root.last_token_s = now_s
        usage = replace(
            root.usage(now_s),
            num_output_tokens=sum(len(one.token_ids) for one in hypotheses),
            num_preemptions=num_preemptions,
        )
        branching.finish(root, now_s)
        return HypothesesOutput(root.seq_id, hypotheses, usage)


def _hypothesis(finished: Finished) -> Hypothesis:
    reason = FinishReason.LENGTH if finished.is_cut else FinishReason.STOP
    return Hypothesis(*finished.beam.tokens(), finished.score, reason)
