"""Makes token ids of texts and conversations, and texts of token ids, for callers that generate nothing.

It takes a request's place of its tenant, and none of its tokens. Knows no wire format.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from scheduler_svc.api.draft import Prompt
from scheduler_svc.api.entrance import Entrance
from scheduler_svc.api.prompt import prompt_token_ids
from scheduler_svc.api.tools import judged_conversation
from scheduler_svc.api.validation import context_tokens, valid_token_ids
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import Amount, InvalidRequest
from scheduler_svc.generation import ServedModel
from scheduler_svc.security.grant import current_grant
from scheduler_svc.security.quotas import Place
from scheduler_svc.text.model_text import ModelTextCache
from scheduler_svc.text.threads import TextThreads

# Nobody waits for a first token here, so that none who does has to wait.
_CLASS = RequestClass.BEST_EFFORT


class Tokenization:
    """Tokenizes and detokenizes.

    Args:
        texts: Knows the tokenizer and the chat template of a model.
        threads: Works on long texts.
        entrance: Says whether there may be new requests.
    """

    def __init__(self, texts: ModelTextCache, threads: TextThreads, entrance: Entrance) -> None:
        self._texts = texts
        self._threads = threads
        self._entrance = entrance

    async def token_ids(self, prompt: Prompt, model: ServedModel) -> tuple[int, ...]:
        """Returns a prompt's tokens; raises ServiceError for one that could not be continued."""
        with self._place():
            text = await self._texts.of(model)
            _, setting = await judged_conversation(prompt, model.chat_template, text.formats, _CLASS, self._threads)
            return await prompt_token_ids(prompt, _CLASS, model, text, self._threads, setting)

    async def words(self, token_ids: Sequence[int], model: ServedModel) -> list[str]:
        """Returns how the vocabulary writes each of the tokens, which are all in it."""
        tokenizer = (await self._texts.of(model)).tokenizer
        word = str if tokenizer is None else tokenizer.token_text
        return await self._threads.run(_CLASS, len(token_ids), lambda: [word(token_id) for token_id in token_ids])

    async def text(self, token_ids: Sequence[int], model: ServedModel) -> str:
        """Returns the text of token ids, special tokens included; raises ServiceError if there is none."""
        with self._place():
            most = context_tokens(model)
            if len(token_ids) > most:
                raise InvalidRequest("tokens", Amount(len(token_ids), "ids"), f"at most {most}, the model's context")
            tokenizer = (await self._texts.of(model)).tokenizer
            if tokenizer is None:
                raise InvalidRequest("tokens", Amount(len(token_ids), "ids"), "none: the model has no tokenizer")
            valid_token_ids("tokens", token_ids, model.vocab_size)
            work = partial(tokenizer.decode, token_ids, with_special_tokens=True)
            return await self._threads.run(_CLASS, len(token_ids), work)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Holds a place of the tenant's while the block runs; raises ServiceError if there is none."""
        self._entrance.require_open()
        place = Place(current_grant().account, 0, asyncio.get_running_loop().time)
        try:
            yield
        finally:
            place.leave(0)
