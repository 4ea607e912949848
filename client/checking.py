"""Checks names and kinds of what is given, before any of it is encoded. Ranges are the service's to check.

What there is stands in one place, the type hints of `GenerateOptions` and `ChatMessage`. A refusal is in the service's
own form: the field, what was given and what is allowed.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral
from typing import Any, NamedTuple, cast, get_type_hints

from qllm.client.errors import InvalidRequest
from qllm.client.kinds import Kind, kind_of, shown
from qllm.client.messages import ChatMessage, GenerateOptions
from qllm.client.openai_shapes import turn_fields

_PROMPT_WORDS = "a text, a list of token ids or a conversation, which is a list of turns"
_TURN_WORDS = 'a ChatMessage or {"role": ..., "content": ...}'
# What other libraries and APIs call options of ours.
_OTHER_NAMES = {
    "n": "num_choices",
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "stop_strings": "stop",
    "stop_sequences": "stop",
    "logprobs": "num_top_logprobs",
    "top_logprobs": "num_top_logprobs",
    "num_beams": "beam_width",
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choices",
    "guided_grammar": "lark",
    "parallel_tool_calls": "single_call",
}
_MAX_CHARS = 40  # to compare long names takes long


class Conversation(NamedTuple):
    """A prompt of turns, oldest first."""

    turns: list[ChatMessage]


def checked_options(options: Mapping[str, Any]) -> GenerateOptions:
    """Returns the options that are given; None is as if left out.

    Raises:
        InvalidRequest: There is no option of a name, or it takes another kind of value.
    """
    _require_known(options, _OPTION_KINDS, "", "option")
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        require_kind(name, value, _OPTION_KINDS[name])
    return cast("GenerateOptions", given)


def checked_prompt(prompt: object) -> str | Collection[int] | Conversation:
    """Returns the prompt; raises InvalidRequest for what is none."""
    if isinstance(prompt, str):
        require_kind("prompt", prompt, _TEXT)
        return prompt
    if isinstance(prompt, bytes | bytearray | memoryview | Mapping) or not isinstance(prompt, Collection):
        raise refusal("prompt", prompt, _PROMPT_WORDS)
    if isinstance(next(iter(prompt), 0), Integral):
        require_kind("prompt", prompt, _TOKEN_IDS)
        return prompt
    return Conversation([_checked_turn(f"messages[{index}]", turn) for index, turn in enumerate(prompt)])


def checked_prompts(prompts: object) -> list[Any]:
    """Returns the prompts; raises InvalidRequest for what is one prompt, or no list."""
    if isinstance(prompts, str | bytes | bytearray | memoryview | Mapping) or not isinstance(prompts, Iterable):
        raise refusal("prompts", prompts, "a list of prompts")
    return list(prompts)


def require_kind(field: str, value: object, kind: Kind) -> None:
    """Raises InvalidRequest, which names the field, if a value is of another kind."""
    if fault := kind.fault(value):
        raise refusal(f"{field}{fault.path}", fault.given, fault.allowed)


def refusal(field: str, given: object, allowed: str) -> InvalidRequest:
    """Returns the error that says what was given and what is allowed."""
    return InvalidRequest(f"{field}: got {shown(given)}, allowed is {allowed}")


def as_json(field: str, given: object) -> str:
    """Returns a value as JSON, and a text as it is; raises InvalidRequest for what JSON can't hold."""
    if isinstance(given, str):
        return given
    try:
        return json.dumps(given)
    except (TypeError, ValueError, RecursionError):
        raise refusal(field, given, "what can be written as JSON") from None


def _checked_turn(place: str, turn: object) -> ChatMessage:
    if isinstance(turn, ChatMessage):
        given = {name: getattr(turn, name) for name in _TURN_KINDS}
    elif isinstance(turn, Mapping):
        try:
            given = turn_fields(turn, place)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(str(error)) from None
        if "content" not in given and not given.get("tool_calls") and "content" not in turn:
            raise InvalidRequest(f"{place}.content: it is missing, and required")
    else:
        several = "; several prompts are for generate_all" if isinstance(turn, str) else ""
        raise refusal(place, turn, f"{_TURN_WORDS}{several}")
    for name, value in given.items():
        require_kind(f"{place}.{name}", value, _TURN_KINDS[name])
    return ChatMessage(**given)


def _require_known(given: Mapping[Any, object], known: Mapping[str, object], place: str, word: str) -> None:
    for name in given:
        if name not in known:
            raise InvalidRequest(f"{place}{name}: there is no such {word}{_suggestion(str(name), known)}")


def _suggestion(name: str, known: Mapping[str, object]) -> str:
    other = _OTHER_NAMES.get(name)
    if other in known:
        return f"; did you mean {other}?"
    close = get_close_matches(name.lower(), known, 1) if len(name) <= _MAX_CHARS else []
    return f"; did you mean {close[0]}?" if close else ""


def _kinds(described: type) -> dict[str, Kind]:
    return {name: kind_of(hint) for name, hint in get_type_hints(described, include_extras=True).items()}


_OPTION_KINDS = _kinds(GenerateOptions)
_TURN_KINDS = _kinds(ChatMessage)
_TEXT = kind_of(str)
_TOKEN_IDS = kind_of(Collection[int])
