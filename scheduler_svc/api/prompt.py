"""Makes token ids of the three kinds of prompt: text, a conversation, or token ids as they are.

Long texts are worked on by TextThreads, and chat templates run in processes of their own. Prompts are never logged.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from scheduler_svc.api.draft import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from scheduler_svc.api.plain_data import require_size
from scheduler_svc.api.validation import (
    UnknownToken,
    context_tokens,
    require_prompt_length,
    valid_token_ids,
)
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import Amount, ContextExceeded, InvalidRequest, Words
from scheduler_svc.generation import ServedModel
from scheduler_svc.text.chat_format import LostTurn, NoTools, calls_of
from scheduler_svc.text.chat_renderer import num_chars
from scheduler_svc.text.chat_template import NO_SETTING, ChatTemplateError, ChatTurn, Setting
from scheduler_svc.text.model_text import ModelText
from scheduler_svc.text.template_process import TemplateExhausted, TemplateUnusable
from scheduler_svc.text.threads import INLINE_CHARS, TextThreads
from scheduler_svc.text.tokenizer import Tokenizer, TooManyTokens

TextWork: TypeAlias = tuple[int, Callable[[], tuple[int, ...]]]

MAX_PROMPT_BYTES = 2 << 20
MAX_CHAT_MESSAGES = 4096
MAX_ROLE_CHARS = 64
# A template adds a few words to each turn; anything far beyond that is a template out of control.
MAX_RENDERED_CHARS = 2 * MAX_PROMPT_BYTES
MAX_TEMPLATE_ERROR_CHARS = 200


async def prompt_token_ids(
    prompt: Prompt,
    request_class: RequestClass,
    model: ServedModel,
    text: ModelText,
    threads: TextThreads,
    setting: Setting = NO_SETTING,
    most_tokens: int | None = None,
) -> tuple[int, ...]:
    """Returns the prompt's ids: at least one, and short enough that one more fits the context.

    Of a prompt that has more than `most_tokens`, if that is given, only so many are kept, its last ones.

    Raises:
        InvalidRequest: The prompt is empty, too long, or of a kind that the model cannot take.
        TextBacklog: Too much text of the class waits to be tokenized.
        TemplateProcessUnavailable: There is no process for the chat template now.
    """
    max_context_tokens = context_tokens(model)
    if isinstance(prompt, TokenPrompt):
        ids = prompt.token_ids if most_tokens is None else prompt.token_ids[-most_tokens:]
        require_prompt_length("token_ids.ids", len(ids), max_context_tokens)
        return text.token_ids.kept(valid_token_ids("token_ids.ids", ids, model.vocab_size))
    kind = "chat" if isinstance(prompt, ChatPrompt) else "text"
    tokenizer = text.tokenizer
    if tokenizer is None:
        raise InvalidRequest("prompt", Words(kind), "token_ids: the model has no tokenizer")
    if isinstance(prompt, ChatPrompt):
        rendered = await _rendered(prompt.turns, setting, request_class, text, threads)
        length, work = _chat_work(rendered, tokenizer, max_context_tokens, cuts=most_tokens is not None)
    else:
        length, work = _text_work(prompt, tokenizer, max_context_tokens, cuts=most_tokens is not None)
    try:
        token_ids = await threads.run(request_class, length, work)
    except TooManyTokens as error:
        require_prompt_length(kind, error.num_tokens, max_context_tokens)
        raise
    if most_tokens is not None:
        token_ids = token_ids[-most_tokens:]
    require_prompt_length(kind, len(token_ids), max_context_tokens)
    _require_known(kind, token_ids, tokenizer, model.vocab_size)
    return text.token_ids.kept(token_ids)


def _text_work(prompt: TextPrompt, tokenizer: Tokenizer, max_context_tokens: int, *, cuts: bool) -> TextWork:
    """Returns the text's length in characters and what tokenizes it; `cuts`: it may be longer than the context."""
    text = prompt.text
    if not text:
        raise InvalidRequest("text", text, "a text that is not empty")
    _require_bytes("text", len(text.encode()))
    return _encoding("text", text, tokenizer, None if cuts else max_context_tokens, prompt.add_special_tokens)


def _chat_work(rendered: str, tokenizer: Tokenizer, max_context_tokens: int, *, cuts: bool) -> TextWork:
    """Returns the rendered conversation's length in characters and what tokenizes it; `cuts` as in `_text_work`."""
    return _encoding("chat", rendered, tokenizer, None if cuts else max_context_tokens, adds_special_tokens=False)


def _encoding(
    field: str, text: str, tokenizer: Tokenizer, max_context_tokens: int | None, adds_special_tokens: bool
) -> TextWork:
    most = None if max_context_tokens is None else max_context_tokens - 1
    if max_context_tokens is not None:
        _require_bound(field, text, tokenizer, max_context_tokens)
    return len(text), lambda: tokenizer.encode(text, add_special_tokens=adds_special_tokens, max_tokens=most)


async def _rendered(
    given: Sequence[ChatTurn], setting: Setting, request_class: RequestClass, text: ModelText, threads: TextThreads
) -> str:
    """Returns the conversation as the text that the model was trained on."""
    chat = text.chat
    if chat is None:
        raise InvalidRequest("chat", Words("a conversation"), "text or token_ids: the model has no chat template")
    turns, length = await threads.run(request_class, _least_chars(given, setting), lambda: _turns(given, setting))
    amount = Amount(len(turns), "messages")
    try:
        with threads.room(request_class, length):
            return await chat.render(request_class, turns, MAX_RENDERED_CHARS, setting)
    except NoTools as error:
        allowed = "none: the model's chat template writes no functions into the prompt"
        raise InvalidRequest("chat.tools", Amount(len(setting.tools), "tools"), allowed) from error
    except LostTurn as lost:
        if lost.call_words:
            allowed = f"none: the model's chat template {lost.call_words[:MAX_TEMPLATE_ERROR_CHARS]}"
            given_calls = Amount(len(calls_of(turns[lost.index])), "calls")
            raise InvalidRequest(f"chat.messages[{lost.index}].tool_calls", given_calls, allowed) from lost
        raise InvalidRequest(
            f"chat.messages[{lost.index}].role", turns[lost.index].role, _roles_taken(chat.roles)
        ) from lost
    except TemplateUnusable as error:
        raise InvalidRequest("chat", amount, f"text or token_ids: {error}") from error
    except TemplateExhausted as error:
        raise InvalidRequest("chat", amount, f"another conversation, text or token_ids: {error}") from error
    except ChatTemplateError as error:
        reason = str(error)[:MAX_TEMPLATE_ERROR_CHARS]
        allowed = f"a conversation that the model's chat template takes, which says: {reason}"
        raise InvalidRequest("chat", amount, allowed) from error


def _roles_taken(roles: Sequence[str]) -> str:
    taken = ", ".join(roles) or "none"
    return f"a turn that the model's chat template writes into the prompt: it drops this one; it takes {taken}"


def _least_chars(given: Sequence[ChatTurn], setting: Setting) -> int:
    """Returns more than what is worked on at once where there is plain data, whose length takes a while to find."""
    return INLINE_CHARS + 1 if setting.tools or any(turn.more for turn in given[:MAX_CHAT_MESSAGES]) else 0


def _turns(given: Sequence[ChatTurn], setting: Setting) -> tuple[Sequence[ChatTurn], int]:
    """Returns a conversation that may be rendered, and its length."""
    if not 1 <= len(given) <= MAX_CHAT_MESSAGES:
        raise InvalidRequest("chat.messages", Amount(len(given), "messages"), f"1 to {MAX_CHAT_MESSAGES} messages")
    for index, message in enumerate(given):
        role = message.role
        if not 1 <= len(role) <= MAX_ROLE_CHARS or not role.isprintable():
            allowed = f"1 to {MAX_ROLE_CHARS} printable characters, such as system, user or assistant"
            raise InvalidRequest(f"chat.messages[{index}].role", role, allowed)
    num_bytes = require_size("chat.tools", list(setting.tools), MAX_PROMPT_BYTES) if setting.tools else 0
    for index, turn in enumerate(given):
        more = require_size(f"chat.messages[{index}].tool_calls", turn.more, MAX_PROMPT_BYTES) if turn.more else 0
        num_bytes += len(turn.content.encode()) + more
    _require_bytes("chat", num_bytes)
    return given, num_chars(given, setting)


def _require_bytes(field: str, num_bytes: int) -> None:
    if num_bytes > MAX_PROMPT_BYTES:
        raise InvalidRequest(field, Amount(num_bytes, "bytes"), f"at most {MAX_PROMPT_BYTES} bytes")


def _require_bound(field: str, text: str, tokenizer: Tokenizer, max_context_tokens: int) -> None:
    """Refuses at once what would take seconds to tokenize and can't fit."""
    if tokenizer.bound.exceeds(text, max_context_tokens - 1):
        allowed = (
            f"at most {max_context_tokens - 1} tokens, the context of {max_context_tokens} less one to generate, and "
            f"no token stands for more than {tokenizer.bound.chars_per_token_of(text)} characters"
        )
        raise ContextExceeded(field, Amount(len(text), "characters"), allowed)


def _require_known(field: str, token_ids: Sequence[int], tokenizer: Tokenizer, vocab_size: int) -> None:
    """Tokenizers may have tokens that the model was never given a row of its embedding for."""
    unknown = max(token_ids)
    if unknown >= vocab_size:
        given = UnknownToken(unknown, tokenizer.token_text(unknown))
        allowed = f"text of token ids in [0, {vocab_size - 1}], which are all that the model knows"
        raise InvalidRequest(field, given, allowed)
