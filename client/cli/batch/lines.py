"""Reads a file of requests, one JSON object a line, in a short form and in that of OpenAI's batches.

    {"custom_id": "one", "prompt": "def f():", "max_tokens": 64}       custom_id may be left out: line-1, line-2 ...
    {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...], ...}}

Fields are named as in OpenAI's API. Those that change the output and are not known are refused, by line.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from qllm.client.batches import BatchItem
from qllm.client.encoding import encode_request
from qllm.client.errors import InvalidRequest
from qllm.client.files import why_unread
from qllm.client.kinds import shown
from qllm.client.messages import GenerateOptions, Prompt

MAX_SHOWN_ERRORS = 10
_OPTIONS = frozenset(
    {"max_tokens", "min_tokens", "ignore_eos", "stop", "stop_token_ids", "temperature", "top_k", "top_p", "min_p"}
    | {
        "seed",
        "cache_salt",
        "show_special_tokens",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "bad_words",
    }
    | {"allowed_token_ids", "beam_width", "num_returned", "length_penalty", "early_stopping", "patience"}
)
_ALIASES = {"max_completion_tokens": "max_tokens"}
# Labels, and what asks for what happens anyway.
_LABELS = frozenset({"model", "metadata", "user", "store", "service_tier", "priority"})
_NEUTRAL = {"n": 1, "stream": False}
_URLS = ("/v1/completions", "/v1/chat/completions")


class LinesRefused(ValueError):
    """Lines of the file can't be sent; the message names them, each with what is wrong."""


class _BadLine(ValueError):
    """One line can't be sent."""


def read_items(content: bytes) -> list[BatchItem]:
    """Returns the requests of a file; raises LinesRefused for lines that are none."""
    items, errors, seen = [], [], dict[str, int]()
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            item = _item(number, line)
            _require_new(item.custom_id, seen)
            seen[item.custom_id] = number
            items.append(item)
        except (ValueError, RecursionError, InvalidRequest) as error:
            errors.append(f"line {number}: {error}")
    if errors:
        more = len(errors) - MAX_SHOWN_ERRORS
        raise LinesRefused("; ".join(errors[:MAX_SHOWN_ERRORS]) + (f"; and {more} lines more" if more > 0 else ""))
    if not items:
        raise LinesRefused("it has no requests; allowed is one JSON object a line")
    return items


def read_file(path: Path) -> bytes:
    """Returns what is in the file, or on standard input for -; raises LinesRefused if it can't be read."""
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise LinesRefused(why_unread(error)) from None


def _item(number: int, line: bytes) -> BatchItem:
    given = _object(json.loads(line), "the line")
    custom_id = given.pop("custom_id", f"line-{number}")
    if not isinstance(custom_id, str):
        raise _BadLine(f"custom_id: got {custom_id!r}, allowed is a text")
    body = _body_of(given) if "body" in given else given
    item = BatchItem(custom_id, _prompt(body), cast("GenerateOptions", dict(_options(body))))
    encode_request(item.prompt, item.options)
    return item


def _require_new(custom_id: str, seen: Mapping[str, int]) -> None:
    if custom_id in seen:
        raise _BadLine(f"custom_id: got {custom_id!r}, which line {seen[custom_id]} has")


def _object(given: object, name: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise _BadLine(f"{name}: got {shown(given)}, allowed is an object")
    return given


def _body_of(given: dict[str, Any]) -> dict[str, Any]:
    """Returns the body of a line in OpenAI's form."""
    for name in given:
        if name not in ("method", "url", "body"):
            raise _BadLine(f"{name}: got {shown(given[name])}, allowed beside a body are custom_id, method and url")
    if given.get("method", "POST") != "POST":
        raise _BadLine(f"method: got {shown(given['method'])}, allowed is 'POST'")
    if given.get("url", _URLS[0]) not in _URLS:
        raise _BadLine(f"url: got {shown(given['url'])}, allowed is {' or '.join(map(repr, _URLS))}")
    return _object(given["body"], "body")


def _prompt(body: dict[str, Any]) -> Prompt:
    """Takes the prompt out of the body."""
    if ("prompt" in body) == ("messages" in body):
        raise _BadLine("a request: allowed is one with either prompt or messages")
    if "messages" in body:
        messages = body.pop("messages")
        if not isinstance(messages, list) or not all(_is_turn(one) for one in messages):
            raise _BadLine("messages: allowed is a list of objects with the texts role and content")
        return messages
    prompt = body.pop("prompt")
    is_ids = isinstance(prompt, list) and all(type(one) is int for one in prompt)
    if not is_ids and not isinstance(prompt, str):
        raise _BadLine(f"prompt: got {shown(prompt)}, allowed is a text or a list of token ids")
    return cast("Prompt", prompt)


def _is_turn(given: object) -> bool:
    if not isinstance(given, dict) or set(given) != {"role", "content"}:
        return False
    return all(isinstance(value, str) for value in given.values())


def _options(body: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Yields the options that are given, by their names here."""
    for given_name, value in body.items():
        name = _ALIASES.get(given_name, given_name)
        if value is None or name in _LABELS or (name in _NEUTRAL and value == _NEUTRAL[name]):
            continue
        if name in _NEUTRAL:
            raise _BadLine(f"{name}: got {shown(value)}, allowed is {json.dumps(_NEUTRAL[name])}")
        if name not in _OPTIONS:
            raise _BadLine(f"{name}: got {shown(value)}, allowed are {', '.join(sorted(_OPTIONS))}")
        yield name, [value] if name == "stop" and isinstance(value, str) else value
