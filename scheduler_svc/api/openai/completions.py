"""The Completions API: prompts to continue, choices with text."""

from typing import cast

from scheduler_svc.api.deltas import Delta
from scheduler_svc.api.draft import Prompt, TextPrompt, TokenPrompt
from scheduler_svc.api.openai.choices import choice_plan
from scheduler_svc.api.openai.question import Choice, JsonObject, Question
from scheduler_svc.api.openai.token_texts import TokenTexts, finite
from scheduler_svc.api.openai.translation import (
    FINISH_REASONS,
    TopLogprobs,
    drafts_of,
    stream_plan,
)
from scheduler_svc.api.openai.wire.schemas import CompletionRequest

# OpenAI's default, and vLLM's.
DEFAULT_MAX_TOKENS = 16


def completion_question(body: CompletionRequest) -> Question:
    """Returns what the body asks for; raises InvalidRequest for fields that contradict each other."""
    with_logprobs, with_token_ids = body.logprobs is not None, bool(body.return_token_ids)

    def new_choice(index: int, token_texts: TokenTexts) -> Choice:
        return _CompletionChoice(index, token_texts, with_logprobs=with_logprobs, with_token_ids=with_token_ids)

    top_logprobs = TopLogprobs(body.logprobs or 0, "logprobs")
    choices = choice_plan(body, body.best_of)
    return Question(
        id_prefix="cmpl",
        whole_object="text_completion",
        chunk_object="text_completion",
        service_tier=body.service_tier,
        drafts=drafts_of(body, _prompts(body.prompt), DEFAULT_MAX_TOKENS, top_logprobs, choices),
        choices=choices,
        stream=stream_plan(body),
        new_choice=new_choice,
    )


def _prompts(given: str | list[int] | list[str] | list[list[int]]) -> list[tuple[str, Prompt]]:
    """Returns the prompts, each with the name of its field."""
    if isinstance(given, str) or not given or isinstance(given[0], int):
        return [("prompt", _prompt(cast("str | list[int]", given)))]
    return [(f"prompt[{index}]", _prompt(one)) for index, one in enumerate(cast("list[str | list[int]]", given))]


def _prompt(given: str | list[int]) -> Prompt:
    return TextPrompt(given) if isinstance(given, str) else TokenPrompt(given)


class _CompletionChoice:
    """Writes a choice; a part has the form of the whole."""

    def __init__(self, index: int, token_texts: TokenTexts, *, with_logprobs: bool, with_token_ids: bool) -> None:
        self._index = index
        self._token_texts = token_texts
        self._with_logprobs = with_logprobs
        self._with_token_ids = with_token_ids

    def whole(self, delta: Delta) -> JsonObject:
        """Returns the choice when it comes at once."""
        return self.part(delta)

    def part(self, delta: Delta) -> JsonObject:
        """Returns what is new in the choice, for a chunk."""
        choice: JsonObject = {
            "index": self._index,
            "text": delta.text,
            "logprobs": self._logprobs(delta) if self._with_logprobs else None,
            "finish_reason": FINISH_REASONS[delta.finish.reason] if delta.finish else None,
        }
        if delta.score is not None:
            choice["score"] = delta.score
        if self._with_token_ids:
            choice["token_ids"] = delta.token_ids
        return choice

    def _logprobs(self, delta: Delta) -> JsonObject:
        tokens, tops = [], []
        for token_id, top in zip(delta.token_ids, delta.each_top, strict=True):
            tops.append({self._token_texts.peek(one.token_id).text: finite(one.logprob) for one in top})
            tokens.append(self._token_texts.next(token_id))
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [finite(logprob) for logprob in delta.logprobs],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": [token.offset for token in tokens],
        }
