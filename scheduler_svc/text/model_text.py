"""Owns what turns the connected model's text into tokens and back, and builds it once for each model.

Knows nothing of requests or of the wire.
"""

import asyncio
import logging
from dataclasses import dataclass

from scheduler_svc.generation import ServedModel
from scheduler_svc.text.chat_format import ChatFormat
from scheduler_svc.text.chat_template import ChatTemplate, ChatTemplateError
from scheduler_svc.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelText:
    """The text side of one model; each part is None if the model has none that works."""

    tokenizer: Tokenizer | None
    chat_format: ChatFormat | None


class ModelTextCache:
    """Remembers the text side of the model that was asked for last."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._model: ServedModel | None = None
        self._text: ModelText | None = None

    async def of(self, model: ServedModel) -> ModelText:
        """Returns the text side of `model`; the first call builds it on a thread, which takes up to a second."""
        if self._text is None or self._model is not model:
            async with self._lock:
                if self._text is None or self._model != model:
                    self._text = await asyncio.to_thread(_build, model)
                self._model = model
        return self._text


def _build(model: ServedModel) -> ModelText:
    return ModelText(
        tokenizer=Tokenizer(model.tokenizer_json) if model.tokenizer_json else None,
        chat_format=_chat_format(model) if model.chat_template else None,
    )


def _chat_format(model: ServedModel) -> ChatFormat | None:
    """A template that does not compile must not keep plain prompts from being served."""
    try:
        return ChatFormat(ChatTemplate(model.chat_template, model.special_tokens))
    except ChatTemplateError as error:
        logger.warning("model=%s chat requests are refused: %s", model.name, error)
        return None
