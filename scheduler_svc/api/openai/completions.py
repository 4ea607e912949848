"""The Completions API: prompts to continue, choices with text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from scheduler_svc.api.deltas import Delta
from scheduler_svc.api.draft import Prompt, TextPrompt, TokenPrompt
from scheduler_svc.api.openai.choices import choice_plan
from scheduler_svc.api.openai.prompt_tokens import Echo, ShownToken, generated, prompt_logprobs
from scheduler_svc.api.openai.question import Choice, JsonObject, Question
from scheduler_svc.api.openai.token_texts import TokenTexts, finite
from scheduler_svc.api.openai.translation import (
    FINISH_REASONS,
    Logprobs,
    drafts_of,
    stream_plan,
)
from scheduler_svc.api.openai.wire.schemas import CompletionRequest
from scheduler_svc.errors import InvalidRequest

# OpenAI's default, and vLLM's.
DEFAULT_MAX_TOKENS = 16


def completion_question(body: CompletionRequest) -> Question:
    """Returns what the body asks for; raises InvalidRequest for fields that contradict each other."""
    shown, prompts, count = _Shown.of(body), _prompts(body), body.logprobs or 0
    choices = choice_plan(body, body.best_of)
    num_choices, echoes = choices.num_choices, _echoes(body, prompts)
    if choices.beams is not None and body.echo and _tells_echo(body):
        allowed = (
            "false with a beam search of which max_tokens is 0, or logprobs are asked for: nothing is told of its "
        )
        raise InvalidRequest("echo", True, allowed + "prompt")

    def new_choice(index: int, token_texts: TokenTexts) -> Choice:  # it must not hold the body, which may be megabytes
        echo = Echo(echoes[index // num_choices], token_texts, count) if echoes else None
        return _CompletionChoice(index, token_texts, shown, echo)

    return Question(
        id_prefix="cmpl",
        whole_object="text_completion",
        chunk_object="text_completion",
        service_tier=body.service_tier,
        drafts=drafts_of(body, prompts, DEFAULT_MAX_TOKENS, _logprobs(body), choices),
        choices=choices,
        stream=stream_plan(body),
        new_choice=new_choice,
    )


def _logprobs(body: CompletionRequest) -> Logprobs:
    """Returns how many alternatives are asked for, of the prompt's tokens too where those are echoed with theirs."""
    count, of_prompt, field = body.logprobs or 0, body.prompt_logprobs, "prompt_logprobs"
    if body.echo and _tells_echo(body) and (of_prompt is None or of_prompt < count):
        of_prompt, field = count, "logprobs"
    return Logprobs(count, "logprobs", of_prompt, field)


def _tells_echo(body: CompletionRequest) -> bool:
    """Whether an echo is of tokens that are told of, or of nothing but the prompt, which is computed as those are."""
    return body.logprobs is not None or 0 in (body.max_tokens, body.max_completion_tokens)


def _echoes(body: CompletionRequest, prompts: Sequence[tuple[str, Prompt]]) -> list[str | None]:
    """Returns the texts that the choices begin with; None for those of token ids, or of a prompt that is cut."""
    if not body.echo:
        return []
    is_cut = body.truncate_prompt_tokens is not None
    return [prompt.text if isinstance(prompt, TextPrompt) and not is_cut else None for _, prompt in prompts]


def _prompts(body: CompletionRequest) -> list[tuple[str, Prompt]]:
    """Returns the prompts, each with the name of its field."""
    given, adds_special_tokens = body.prompt, body.add_special_tokens is not False
    if isinstance(given, str) or not given or isinstance(given[0], int):
        return [("prompt", _prompt(cast("str | list[int]", given), adds_special_tokens))]
    several = enumerate(cast("list[str | list[int]]", given))
    return [(f"prompt[{index}]", _prompt(one, adds_special_tokens)) for index, one in several]


def _prompt(given: str | list[int], adds_special_tokens: bool) -> Prompt:
    return TextPrompt(given, adds_special_tokens) if isinstance(given, str) else TokenPrompt(given)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a choice shows besides its text.

    Attributes:
        logprobs: Whether it shows its tokens with their probabilities.
        token_ids: Whether it shows their ids.
        prompt_alternatives: So many of each token of the prompt, in a field of their own; None: there is no such field.
    """

    logprobs: bool
    token_ids: bool
    prompt_alternatives: int | None

    @classmethod
    def of(cls, body: CompletionRequest) -> "_Shown":
        """Returns what a request asks for."""
        return cls(body.logprobs is not None, bool(body.return_token_ids), body.prompt_logprobs)


class _CompletionChoice:
    """Writes a choice; a part has the form of the whole."""

    def __init__(self, index: int, token_texts: TokenTexts, shown: _Shown, echo: Echo | None) -> None:
        self._index = index
        self._of_prompt = token_texts
        self._token_texts = token_texts if echo is None else echo.token_texts
        self._shown = shown
        self._echo = echo
        self._is_begun = False

    def whole(self, delta: Delta) -> JsonObject:
        """Returns the choice when it comes at once."""
        choice = self.part(delta)
        if (most := self._shown.prompt_alternatives) is not None:
            choice["prompt_logprobs"] = prompt_logprobs(self._of_prompt, delta.scores, most)
        return choice

    def of_prompt(self, delta: Delta) -> JsonObject:
        """Returns nothing: what is told of a prompt is told with each choice."""
        return {}

    def says(self, delta: Delta) -> bool:
        """Whether a chunk would have anything to say; the first one has what is echoed."""
        is_echo = self._echo is not None and not self._is_begun
        return is_echo or self._shown.logprobs or self._shown.token_ids or bool(delta.text or delta.finish)

    def part(self, delta: Delta) -> JsonObject:
        """Returns what is new in the choice, for a chunk."""
        text, tokens = ("", []) if self._echo is None else self._echo.next(delta.scores)
        choice: JsonObject = {
            "index": self._index,
            "text": text + delta.text,
            "logprobs": self._logprobs(tokens, delta) if self._shown.logprobs else None,
            "finish_reason": FINISH_REASONS[delta.finish.reason] if delta.finish else None,
        }
        if delta.score is not None:
            choice["score"] = delta.score
        if self._shown.token_ids:
            choice["token_ids"] = delta.token_ids
            if not self._is_begun:
                choice["prompt_token_ids"] = self._of_prompt.prompt_token_ids
        self._is_begun = True
        return choice

    def _logprobs(self, of_prompt: Iterable[ShownToken], delta: Delta) -> JsonObject:
        shown = [*of_prompt, *generated(delta.token_ids, delta.logprobs, delta.each_top)]
        tokens, tops = [], []
        for one in shown:
            tops.append(self._top(one))
            tokens.append(self._token_texts.next(one.token_id))
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [None if one.logprob is None else finite(one.logprob) for one in shown],
            "top_logprobs": tops,
            "text_offset": [token.offset for token in tokens],
        }

    def _top(self, token: ShownToken) -> dict[str, float] | None:
        """Returns the most probable tokens at one place by their texts, with the one that stands there."""
        if token.logprob is None:
            return None
        top: dict[str, float] = {}
        for token_id, logprob in (*token.top, (token.token_id, token.logprob)):  # of equal texts the more probable one
            top.setdefault(self._token_texts.peek(token_id).text, finite(logprob))
        return top
