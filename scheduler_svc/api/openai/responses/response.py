"""A response, whole or as a stream of events, from a chat's answer.

response.created ──▶ response.in_progress ──▶ of items ... ──▶ response.completed | .incomplete | .failed
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.api.openai.responses.items import Event
from scheduler_svc.api.openai.responses.output import COMPLETED, INCOMPLETE, Output
from scheduler_svc.api.openai.responses.schema import NamedFunction, ResponsesRequest
from scheduler_svc.api.openai.wire.errors import error_body
from scheduler_svc.errors import ServiceError

RESPONSE_ID_PREFIX = "resp_"
_LENGTH = {"reason": "max_output_tokens"}
# Of a chat's answer by the reason why it ended; any other is a whole answer.
_STATUS = {"length": INCOMPLETE, "abort": "cancelled"}


class ResponseWriter:
    """Writes one response.

    Args:
        response_id: Its id.
        model: The name of the model.
        echoed: What of the request is repeated in it; see `echo`.
        hides_thoughts: Whether what was thought is left out.
    """

    def __init__(self, response_id: str, model: str, echoed: JsonObject, *, hides_thoughts: bool) -> None:
        self._head: JsonObject = {
            "id": response_id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "background": False,
            "previous_response_id": None,
            "store": False,
            **echoed,
        }
        self._output = Output(response_id, hides_thoughts=hides_thoughts)
        self._usage: JsonObject | None = None
        self._has_thought = False
        self._finish_reason: str | None = None
        self._number = 0

    def whole(self, answer: Mapping[str, Any]) -> JsonObject:
        """Returns the response that says what a chat's answer says."""
        for _ in self._take(answer, "message"):
            pass
        for _ in self._output.end(self._item_status()):
            pass
        return self._ended()

    def begun(self) -> bytes:
        """Returns the first events of a stream."""
        response = self._response("in_progress")
        kinds = ("response.created", "response.in_progress")
        return b"".join(self._event({"type": kind, "response": response}) for kind in kinds)

    def part(self, chunk: Mapping[str, Any]) -> bytes:
        """Returns the events that say what a chunk of a chat's answer says; there may be none."""
        return b"".join(map(self._event, self._take(chunk, "delta")))

    def ended(self) -> bytes:
        """Returns the last events of a stream."""
        events = b"".join(map(self._event, self._output.end(self._item_status())))
        response = self._ended()
        kind = "response.completed" if response["status"] == COMPLETED else "response.incomplete"
        return events + self._event({"type": kind, "response": response})

    def failed(self, error: ServiceError) -> bytes:
        """Returns the events that end a stream which can't be finished."""
        told: Any = error_body(error)["error"]
        code = told["code"] or ("server_error" if told["type"] == "server_error" else "invalid_prompt")
        response = self._response("failed", error={"code": code, "message": told["message"]})
        return self._event({"type": "response.failed", "response": response})

    def _take(self, answer: Mapping[str, Any], message: str) -> Iterator[Event]:
        for choice in answer["choices"]:
            self._finish_reason = choice["finish_reason"]
            self._has_thought |= bool(choice[message].get("reasoning_content"))
            logprobs = choice["logprobs"]["content"] if choice["logprobs"] else []
            yield from self._output.take(choice[message], logprobs)
        if answer.get("usage"):
            self._usage = _usage(answer["usage"], self._has_thought)

    def _item_status(self) -> str:
        return COMPLETED if self._status() == COMPLETED else INCOMPLETE

    def _status(self) -> str:
        return _STATUS.get(self._finish_reason or "", COMPLETED)

    def _ended(self) -> JsonObject:
        status = self._status()
        return self._response(
            status,
            incomplete_details=_LENGTH if status == INCOMPLETE else None,
            completed_at=int(time.time()) if status == COMPLETED else None,
        )

    def _response(self, status: str, **changed: object) -> JsonObject:
        return {
            **self._head,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": self._output.shown(),
            "usage": self._usage,
            **changed,
        }

    def _event(self, event: Event) -> bytes:
        numbered = {**event, "sequence_number": self._number}
        self._number += 1
        data = json.dumps(numbered, ensure_ascii=False, separators=(",", ":")).encode()
        return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), data)


def echo(body: ResponsesRequest) -> JsonObject:
    """Returns what a response repeats of its request."""
    given = body.text.model_dump(exclude_none=True, by_alias=True) if body.text else {}
    reasoning = {"effort": body.reasoning.effort if body.reasoning else None, "summary": None}
    choice = body.tool_choice
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "reasoning": reasoning,
        "service_tier": body.service_tier,
        "temperature": body.temperature,
        "text": {"format": {"type": "text"}, **given},
        "tool_choice": choice.model_dump() if isinstance(choice, NamedFunction) else choice or "auto",
        "tools": [tool.model_dump() for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
    }


def _usage(chat: Mapping[str, Any], has_thought: bool) -> JsonObject:
    """Returns the counts; that of thoughts only where there were none: a token may be of both, or of neither."""
    cached = (chat.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {} if has_thought else {"reasoning_tokens": 0},
        "total_tokens": chat["total_tokens"],
    }
