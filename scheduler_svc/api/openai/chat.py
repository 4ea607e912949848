"""The Chat Completions API: a conversation to answer, choices with a message."""

import sys
from collections.abc import Sequence

from scheduler_svc.api.deltas import Delta
from scheduler_svc.api.draft import ChatPrompt
from scheduler_svc.api.openai.choices import choice_plan
from scheduler_svc.api.openai.question import Choice, JsonObject, Question
from scheduler_svc.api.openai.token_texts import TokenText, TokenTexts, finite
from scheduler_svc.api.openai.translation import (
    FINISH_REASONS,
    TopLogprobs,
    drafts_of,
    stream_plan,
)
from scheduler_svc.api.openai.wire.schemas import ChatCompletionRequest, ChatMessage
from scheduler_svc.core.state.results import TokenLogprob
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.text.chat_template import ChatTurn

# An answer may be as long as the context allows, as with OpenAI and vLLM.
DEFAULT_MAX_TOKENS = sys.maxsize
_PARTS_SEPARATOR = "\n"


def chat_question(body: ChatCompletionRequest) -> Question:
    """Returns what the body asks for; raises InvalidRequest for fields that contradict each other."""
    with_logprobs, with_token_ids = bool(body.logprobs), bool(body.return_token_ids)

    def new_choice(index: int, token_texts: TokenTexts) -> Choice:
        return _ChatChoice(index, token_texts, with_logprobs=with_logprobs, with_token_ids=with_token_ids)

    prompt = ChatPrompt([turn_of(message) for message in body.messages])
    choices = choice_plan(body)
    return Question(
        id_prefix="chatcmpl",
        whole_object="chat.completion",
        chunk_object="chat.completion.chunk",
        service_tier=body.service_tier,
        drafts=drafts_of(body, [("messages", prompt)], DEFAULT_MAX_TOKENS, _top_logprobs(body), choices),
        choices=choices,
        stream=stream_plan(body),
        new_choice=new_choice,
    )


def _top_logprobs(body: ChatCompletionRequest) -> TopLogprobs:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs", body.top_logprobs, "0 or null unless logprobs is true")
    return TopLogprobs(body.top_logprobs or 0, "top_logprobs")


def turn_of(message: ChatMessage) -> ChatTurn:
    """Returns a message as templates take it; its parts are joined by lines."""
    content = message.content
    text = content if isinstance(content, str) else _PARTS_SEPARATOR.join(part.text for part in content)
    return ChatTurn(message.role, text)


class _ChatChoice:
    """Writes a choice; the role comes with the first part."""

    def __init__(self, index: int, token_texts: TokenTexts, *, with_logprobs: bool, with_token_ids: bool) -> None:
        self._index = index
        self._token_texts = token_texts
        self._with_logprobs = with_logprobs
        self._with_token_ids = with_token_ids
        self._has_role = False

    def whole(self, delta: Delta) -> JsonObject:
        """Returns the choice when it comes at once."""
        return self._choice("message", {"role": "assistant", "content": delta.text, "refusal": None}, delta)

    def part(self, delta: Delta) -> JsonObject:
        """Returns what is new in the choice, for a chunk."""
        message: JsonObject = {"content": delta.text}
        if not self._has_role:
            message = {"role": "assistant", **message}
            self._has_role = True
        return self._choice("delta", message, delta)

    def _choice(self, message_field: str, message: JsonObject, delta: Delta) -> JsonObject:
        choice: JsonObject = {
            "index": self._index,
            message_field: message,
            "logprobs": self._logprobs(delta) if self._with_logprobs else None,
            "finish_reason": FINISH_REASONS[delta.finish.reason] if delta.finish else None,
        }
        if delta.score is not None:
            choice["score"] = delta.score
        if self._with_token_ids:
            choice["token_ids"] = delta.token_ids
        return choice

    def _logprobs(self, delta: Delta) -> JsonObject:
        return {
            "content": [self._token(*one) for one in zip(delta.token_ids, delta.logprobs, delta.each_top, strict=True)],
            "refusal": None,
        }

    def _token(self, token_id: int, logprob: float, top: Sequence[TokenLogprob]) -> JsonObject:
        others = [_shown(self._token_texts.peek(one.token_id), one.logprob) for one in top]  # before the text goes on
        return {**_shown(self._token_texts.next(token_id), logprob), "top_logprobs": others}


def _shown(token: TokenText, logprob: float) -> JsonObject:
    return {"token": token.text, "logprob": finite(logprob), "bytes": [*token.data]}
