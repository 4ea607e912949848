"""Tells who sent a field that is not there which one was probably meant."""

from collections.abc import Set
from difflib import get_close_matches

# What other servers and libraries call fields of ours.
_OTHER_NAMES = {
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "stop_sequences": "stop",
    "stop_words": "stop",
    "num_return_sequences": "n",
    "num_beams": "beam_width",
    "inputs": "prompt",
    "input": "prompt",
    "system_prompt": "messages",
    "extra_body": "its fields beside the others: it is the OpenAI SDK's own",
}
# Fields of one API that are sent to another; what is asked for text has a limit, parts of it have none.
_ELSEWHERE = {"input": "/v1/responses", "messages": "/v1/chat/completions", "prompt": "/v1/completions"}
_OF_APIS = "max_tokens"
_MAX_CHARS = 40  # to compare long names takes long
_LIKENESS = 0.75


def suggestion_for(field: str, known: Set[str]) -> str:
    """Returns what to do in place of sending a field, as the end of a sentence; empty if that is not known."""
    other = _OTHER_NAMES.get(field, "")
    if other and (other in known or " " in other):
        return f"send {other}"
    if field in _ELSEWHERE and _OF_APIS in known:
        return f"it is for {_ELSEWHERE[field]}"
    close = get_close_matches(field.lower(), sorted(known), 1, _LIKENESS) if len(field) <= _MAX_CHARS else []
    return f"did you mean {close[0]}?" if close else ""
