"""Reads what the scheduler needs of a model's tokenizer: tokenizer.json, chat template and special tokens.

It tokenizes nothing: the scheduler does, from these bytes.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from gpu_worker.errors import ModelRefused, one_line

logger = logging.getLogger(__name__)

_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """A model's tokenizer, for the scheduler; all empty if it has none.

    Attributes:
        tokenizer_json: Content of tokenizer.json.
        chat_template: Jinja template.
        special_tokens: Text by role, such as "bos_token".
        eos_token_id: Token that its eos_token is; None if there is none.
    """

    tokenizer_json: bytes = b""
    chat_template: str = ""
    special_tokens: dict[str, str] = field(default_factory=dict)
    eos_token_id: int | None = None


def read_tokenizer(source: str) -> TokenizerFacts:
    """Reads the tokenizer of a local directory or hub id.

    Raises:
        ModelRefused: There is one, but it can't be read or has no tokenizer.json form.
    """
    if Path(source).is_dir() and not any((Path(source) / name).exists() for name in _FILES):
        logger.warning("model %s has no tokenizer: only token ids can be served", source)
        return TokenizerFacts()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ModelRefused(f"the tokenizer of {source} can't be read: {one_line(error)}") from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelRefused(f"the tokenizer of {source} ({type(tokenizer).__name__}) has no tokenizer.json form")
    special = {role: str(token) for role, token in tokenizer.special_tokens_map.items() if not isinstance(token, list)}
    end = special.get("eos_token")
    return TokenizerFacts(
        tokenizer_json=backend.to_str().encode(),
        chat_template=_template(tokenizer.chat_template),
        special_tokens=special,
        eos_token_id=None if end is None else backend.token_to_id(end),
    )


def _template(template: Any) -> str:
    """The default template, of one or of several by name."""
    if isinstance(template, dict):
        template = template.get("default", next(iter(template.values()), ""))
    return template or ""
