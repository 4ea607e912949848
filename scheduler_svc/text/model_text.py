"""Owns what turns the connected model's text into tokens and back, and builds it once for each model.

Knows nothing of requests or of the wire.
"""

import asyncio
from dataclasses import dataclass

from scheduler_svc.generation import ServedModel
from scheduler_svc.structure.grammar_checker import GrammarChecker
from scheduler_svc.text.chat_renderer import ChatRenderer
from scheduler_svc.text.formats.settings import DEFAULT_FORMATS, FormatSettings
from scheduler_svc.text.formats.table import Formats
from scheduler_svc.text.token_ids import TokenIds
from scheduler_svc.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ModelText:
    """The text side of one model; each part is None if the model has none."""

    token_ids: TokenIds
    tokenizer: Tokenizer | None
    chat: ChatRenderer | None
    formats: Formats
    grammars: GrammarChecker | None


class ModelTextCache:
    """Remembers the text side of the model that was asked for last.

    Args:
        settings: How to tell in which formats it writes.
    """

    def __init__(self, settings: FormatSettings = DEFAULT_FORMATS) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._model: ServedModel | None = None
        self._text: ModelText | None = None

    async def of(self, model: ServedModel) -> ModelText:
        """Returns the text side of `model`; the first call builds it on a thread, which takes up to a second."""
        if self._text is None or self._model is not model:
            async with self._lock:
                if self._text is None or self._model != model:
                    self._text = await asyncio.to_thread(_build, model, self._settings)
                self._model = model
        return self._text

    async def warm_up(self, model: ServedModel) -> None:
        """Makes the text side of `model` ready, so that the first request does not wait for it."""
        chat = (await self.of(model)).chat
        if chat is not None:
            await chat.load()

    def close(self) -> None:
        """Ends the processes of the model that was asked for last."""
        if self._text is None:
            return
        for part in (self._text.chat, self._text.grammars):
            if part is not None:
                part.close()


def _build(model: ServedModel, settings: FormatSettings) -> ModelText:
    template, special_tokens = model.chat_template, model.special_tokens
    return ModelText(
        token_ids=TokenIds(model.vocab_size),
        tokenizer=Tokenizer(model.tokenizer_json) if model.tokenizer_json else None,
        chat=ChatRenderer(model.name, template, special_tokens) if template else None,
        formats=settings.formats_of(template),
        grammars=_grammars(model),
    )


def _grammars(model: ServedModel) -> GrammarChecker | None:
    if not model.tokenizer_json or model.no_structure_reason:
        return None
    return GrammarChecker(model.tokenizer_json, model.vocab_size, model.eos_token_ids)
