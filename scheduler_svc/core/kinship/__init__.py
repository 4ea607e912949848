"""Sequences that belong together: the choices of one prompt, and the beams of one search."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from scheduler_svc.core.beams.params import BeamParams
from scheduler_svc.core.beams.search import num_candidates
from scheduler_svc.core.kinship.beam_group import BeamGroup
from scheduler_svc.core.kinship.choices import Choices
from scheduler_svc.core.state import sequence as state
from scheduler_svc.core.state.ids import SeqId

__all__ = ["search_beams", "share_prompt"]


def search_beams(root: state.Sequence, params: BeamParams, new_id: Callable[[], SeqId]) -> None:
    """Has a sequence that was not queued yet search, rather than sample; further beams get ids from `new_id`."""
    wanted = num_candidates(params, frozenset(root.stop.stop_token_ids))
    root.sampling = replace(root.sampling, num_candidates=wanted)
    root.kin = BeamGroup(root, params, new_id)


def share_prompt(sequences: Sequence[state.Sequence]) -> None:
    """Has sequences of one prompt that were not queued yet compute it once."""
    kin = Choices(sequences)
    for sequence in sequences:
        sequence.kin = kin
