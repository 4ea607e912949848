"""Reads the events of an OpenAI-compatible stream, completions and chat alike. Knows nothing of HTTP and of times.

Servers differ in what they send: token ids or text only, usage at the end, along the way or never, one token or
several in an event. What is missing stays missing; only tokens are estimated, one for each event that brings text,
until usage tells.
"""

import json
from dataclasses import dataclass

from qllm.client.bench.errors import RequestFailed
from qllm.client.bench.load.target import Chunk, Ending

_DONE = "[DONE]"
_SHOWN_CHARS = 200
_TEXT_KEYS = ("content", "reasoning_content", "reasoning", "refusal")


@dataclass(slots=True)
class OpenAIStream:
    """One stream, event by event."""

    _has_finished: bool = False
    _num_tokens: int | None = None
    _num_prompt_tokens: int | None = None
    _queue_ms: float | None = None
    _num_cached_tokens: int | None = None

    def feed(self, event: str) -> Chunk | None:
        """Takes the text of one event; returns the tokens that it brings, if any.

        Raises:
            RequestFailed: The event is an error, or cannot be understood.
        """
        if event.strip() == _DONE:
            self._has_finished = True
            return None
        message = _parse(event)
        if message.get("error"):
            raise RequestFailed("error in stream", _shown(message["error"]))
        self._take_usage(message)
        choices = message.get("choices")
        if not isinstance(choices, list) or not choices:
            return None
        if not isinstance(choices[0], dict):
            raise RequestFailed("unreadable stream", f"a choice is no object: {_shown(event)}")
        return self._take_choice(choices[0])

    def end(self) -> Ending:
        """Returns what the server said about the request, once the connection has no more to give.

        Raises:
            RequestFailed: The stream broke off.
        """
        if not self._has_finished:
            raise RequestFailed("stream cut", "the stream ended without a finish_reason or [DONE]")
        return Ending(self._num_tokens, self._num_prompt_tokens, self._queue_ms, self._num_cached_tokens)

    def _take_choice(self, choice: dict[str, object]) -> Chunk | None:
        self._has_finished = self._has_finished or choice.get("finish_reason") is not None
        token_ids = choice.get("token_ids")
        if isinstance(token_ids, list):
            return Chunk(len(token_ids), token_ids=_ids(token_ids)) if token_ids else None
        delta = choice.get("delta")
        texts = (
            [choice.get("text"), *(delta.get(key) for key in _TEXT_KEYS)]
            if isinstance(delta, dict)
            else [choice.get("text")]
        )
        return Chunk(1, is_exact=False) if any(texts) else None

    def _take_usage(self, message: dict[str, object]) -> None:
        usage, metrics = message.get("usage"), message.get("metrics")
        if isinstance(usage, dict):
            self._num_tokens = _whole(usage.get("completion_tokens"), self._num_tokens)
            self._num_prompt_tokens = _whole(usage.get("prompt_tokens"), self._num_prompt_tokens)
            details = usage.get("prompt_tokens_details")
            if isinstance(details, dict):
                self._num_cached_tokens = _whole(details.get("cached_tokens"), self._num_cached_tokens)
        if isinstance(metrics, dict) and isinstance(metrics.get("queue_time_ms"), int | float):
            self._queue_ms = float(metrics["queue_time_ms"])


def _parse(event: str) -> dict[str, object]:
    try:
        message = json.loads(event)
    except ValueError:
        raise RequestFailed("unreadable stream", f"an event is not JSON: {_shown(event)}") from None
    if not isinstance(message, dict):
        raise RequestFailed("unreadable stream", f"an event is no object: {_shown(event)}")
    return message


def _whole(value: object, otherwise: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _ids(values: list[object]) -> tuple[int, ...]:
    """Returns token ids; none if one of them is something else."""
    ids = tuple(value for value in values if isinstance(value, int) and not isinstance(value, bool))
    return ids if len(ids) == len(values) else ()


def _shown(value: object) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:_SHOWN_CHARS]
