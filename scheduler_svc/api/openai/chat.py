"""The Chat Completions API: a conversation to answer, choices with a message."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler_svc.api.deltas import Delta, Finish
from scheduler_svc.api.openai.choices import choice_plan
from scheduler_svc.api.openai.conversation import prompt_of
from scheduler_svc.api.openai.prompt_tokens import prompt_logprobs
from scheduler_svc.api.openai.question import Choice, JsonObject, Question
from scheduler_svc.api.openai.token_texts import TokenText, TokenTexts, finite
from scheduler_svc.api.openai.translation import (
    FINISH_REASONS,
    Logprobs,
    drafts_of,
    stream_plan,
)
from scheduler_svc.api.openai.wire.schemas import ChatCompletionRequest
from scheduler_svc.api.parts import CallDelta
from scheduler_svc.core.state.results import TokenLogprob
from scheduler_svc.errors import InvalidRequest

# An answer may be as long as the context allows, as with OpenAI and vLLM.
DEFAULT_MAX_TOKENS = sys.maxsize


def chat_question(body: ChatCompletionRequest) -> Question:
    """Returns what the body asks for; raises InvalidRequest for fields that contradict each other."""
    includes_reasoning = body.include_reasoning is not False
    told = Told(bool(body.logprobs), bool(body.return_token_ids), includes_reasoning, body.prompt_logprobs)

    def new_choice(index: int, token_texts: TokenTexts) -> Choice:
        return _ChatChoice(index, token_texts, told)

    prompt = prompt_of(body)
    choices = choice_plan(body)
    return Question(
        id_prefix="chatcmpl",
        whole_object="chat.completion",
        chunk_object="chat.completion.chunk",
        service_tier=body.service_tier,
        drafts=drafts_of(body, [("messages", prompt)], DEFAULT_MAX_TOKENS, _logprobs(body), choices),
        choices=choices,
        stream=stream_plan(body),
        new_choice=new_choice,
    )


def _logprobs(body: ChatCompletionRequest) -> Logprobs:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs", body.top_logprobs, "0 or null unless logprobs is true")
    return Logprobs(body.top_logprobs or 0, "top_logprobs", body.prompt_logprobs)


@dataclass(frozen=True, slots=True)
class Told:
    """What is told besides text and calls.

    Attributes:
        logprobs: How probable each token is.
        token_ids: The tokens themselves.
        reasoning: What the model thought before.
        prompt_logprobs: So many alternatives for each token of the prompt; None: nothing of the prompt.
    """

    logprobs: bool
    token_ids: bool
    reasoning: bool
    prompt_logprobs: int | None = None


class _ChatChoice:
    """Writes a choice; the role comes with the first part."""

    def __init__(self, index: int, token_texts: TokenTexts, told: Told) -> None:
        self._index = index
        self._token_texts = token_texts
        self._told = told
        self._has_role = False

    def whole(self, delta: Delta) -> JsonObject:
        """Returns the choice when it comes at once."""
        content = None if delta.calls and not delta.text else delta.text
        message: JsonObject = {"role": "assistant", "content": content, "refusal": None, **self._reasoning(delta)}
        if delta.calls:
            message["tool_calls"] = [_call(call) for call in delta.calls]
        return self._choice("message", message, delta)

    def of_prompt(self, delta: Delta) -> JsonObject:
        """Returns the prompt's tokens, and how probable they are, if asked for."""
        most = self._told.prompt_logprobs
        ids: JsonObject = {"prompt_token_ids": self._token_texts.prompt_token_ids} if self._told.token_ids else {}
        return (
            ids if most is None else {**ids, "prompt_logprobs": prompt_logprobs(self._token_texts, delta.scores, most)}
        )

    def says(self, delta: Delta) -> bool:
        """Whether a chunk would say more than the one before; the first one has the role."""
        always = not self._has_role or self._told.logprobs or self._told.token_ids
        return always or bool(delta.text or delta.calls or delta.finish or self._reasoning(delta))

    def part(self, delta: Delta) -> JsonObject:
        """Returns what is new in the choice, for a chunk."""
        message: JsonObject = {"content": delta.text, **self._reasoning(delta)}
        if delta.calls:
            message["tool_calls"] = [{"index": call.index, **_call(call)} for call in delta.calls]
        if not self._has_role:
            message = {"role": "assistant", **message}
            self._has_role = True
        return self._choice("delta", message, delta)

    def _reasoning(self, delta: Delta) -> JsonObject:
        return {"reasoning_content": delta.reasoning} if delta.reasoning and self._told.reasoning else {}

    def _choice(self, message_field: str, message: JsonObject, delta: Delta) -> JsonObject:
        choice: JsonObject = {
            "index": self._index,
            message_field: message,
            "logprobs": self._logprobs(delta) if self._told.logprobs else None,
            "finish_reason": _finish_reason(delta.finish) if delta.finish else None,
        }
        if delta.score is not None:
            choice["score"] = delta.score
        if self._told.token_ids:
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


def _finish_reason(finish: Finish) -> str:
    return "tool_calls" if finish.has_calls else FINISH_REASONS[finish.reason]


def _call(call: CallDelta) -> JsonObject:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _shown(token: TokenText, logprob: float) -> JsonObject:
    return {"token": token.text, "logprob": finite(logprob), "bytes": [*token.data]}
