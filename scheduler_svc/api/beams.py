"""Decides whether a beam search may be asked for as it is, and what goes along with it.

Each refusal is an InvalidRequest that names the field as GenerateRequest does, what was given and what is allowed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scheduler_svc.api.draft import BeamDraft, ChatPrompt, Draft, SamplingDraft
from scheduler_svc.core.beams.params import BeamParams
from scheduler_svc.errors import InvalidRequest

MAX_BEAM_WIDTH = 16
MAX_LENGTH_PENALTY = 10.0
MAX_PATIENCE = 10.0
# What changes nothing about a search, by field of SamplingDraft.
_NEUTRAL: Mapping[str, float] = {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0, "typical_p": 1}


def valid_beams(draft: Draft) -> BeamParams | None:
    """Returns how a draft asks to search for texts; None if it asks to sample one.

    Raises:
        InvalidRequest: A value is not allowed, or the draft asks for what does not go along with a search.
    """
    if draft.beams is None:
        return None
    params = _valid_params(draft.beams)
    given = draft.sampling
    for field, neutral in _NEUTRAL.items():
        value = getattr(given, field)
        if value not in (None, neutral):
            allowed = f"{neutral}, or nothing, with a beam search, which draws no tokens"
            raise InvalidRequest(f"sampling.{field}", value, allowed)
    if given.num_top_logprobs:
        allowed = "0 with a beam search, which tells no alternatives"
        raise InvalidRequest("num_top_logprobs", given.num_top_logprobs, allowed)
    if given.num_prompt_logprobs is not None:
        allowed = "nothing with a beam search, which tells nothing of the prompt"
        raise InvalidRequest("num_prompt_logprobs", given.num_prompt_logprobs, allowed)
    if isinstance(draft.prompt, ChatPrompt) and draft.prompt.tools is not None and draft.prompt.tools.must_call:
        allowed = "auto or none with a beam search, whose texts are kept to no structure"
        raise InvalidRequest("chat.tool_choice", draft.prompt.tools.choice.value, allowed)
    if draft.structure is not None:
        allowed = "nothing with a beam search, whose texts are kept to no structure"
        raise InvalidRequest(draft.structure.field, draft.structure.shown, allowed)
    if draft.session is not None:
        allowed = "nothing with a beam search: it is not known which of its texts the next turn goes on from"
        raise InvalidRequest("session.session_id", draft.session.session_id, allowed)
    return params


def without_draws(given: SamplingDraft) -> SamplingDraft:
    """Returns how a search chooses: as a draft says, without what a model's makers say of drawing tokens."""
    return replace(given, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0)


def require_tokens(stop_strings: Sequence[str], stop_tokens: Mapping[int, str]) -> None:
    """Raises InvalidRequest unless each stop string is a token: texts are compared by tokens, before they are text."""
    for index, stop_string in enumerate(stop_strings):
        if stop_string not in stop_tokens.values():
            allowed = "a special token by itself, with a beam search; stop_token_ids end its texts too"
            raise InvalidRequest(f"stop.stop_strings[{index}]", stop_string, allowed)


def _valid_params(given: BeamDraft) -> BeamParams:
    width, patience = given.beam_width, 1.0 if given.patience is None else given.patience
    length_penalty = 1.0 if given.length_penalty is None else given.length_penalty
    num_returned = 1 if given.num_returned is None else given.num_returned
    if not 1 <= width <= MAX_BEAM_WIDTH:
        raise InvalidRequest("beam_search.beam_width", width, f"an integer in [1, {MAX_BEAM_WIDTH}]")
    if not -MAX_LENGTH_PENALTY <= length_penalty <= MAX_LENGTH_PENALTY:  # also false for NaN
        allowed = f"a number in [-{MAX_LENGTH_PENALTY:g}, {MAX_LENGTH_PENALTY:g}]"
        raise InvalidRequest("beam_search.length_penalty", length_penalty, allowed)
    if not 0 < patience <= MAX_PATIENCE:
        raise InvalidRequest("beam_search.patience", patience, f"a number in (0, {MAX_PATIENCE:g}]")
    params = BeamParams(width, num_returned, length_penalty, given.early_stopping, patience)
    most = min(width, params.num_wanted)
    if not 1 <= num_returned <= most:
        limit = "the beam width" if most == width else f"the beam width x patience, {width} x {patience:g}"
        raise InvalidRequest("beam_search.num_returned", num_returned, f"1 to {most}, {limit}")
    return params
