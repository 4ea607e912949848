"""Decides how long a text may be before it is certain that its tokens are too many, without tokenizing it.

Right rather than tight: a tokenizer that may drop or merge text without limit (collapsed spaces,
unknown words) has no such bound.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import tokenizers
from tokenizers.models import BPE

from scheduler_svc.text.byte_alphabet import BYTE_OF_CHAR

# A character of the composed forms stands for at most four of the text: no canonical decomposition is longer.
_SHRINKING = {"NFC": 4, "NFKC": 4, "NFD": 1, "NFKD": 1, "Lowercase": 1, "Prepend": 1, "ByteLevel": 1}
_KEEPING_PRE_TOKENIZERS = frozenset({"ByteLevel", "Metaspace", "Digits", "UnicodeScripts"})

Step: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TextBound:
    """The most characters that a token can stand for.

    Attributes:
        chars_per_token: In a text of ASCII; None where there is no limit.
        shrinking: How many characters of another text become one at most.
        stripping_tokens: Texts of tokens that swallow the spaces beside them, however
            many; a text with one has no bound.
    """

    chars_per_token: int | None
    shrinking: int = 1
    stripping_tokens: tuple[str, ...] = ()

    def chars_per_token_of(self, text: str) -> int | None:
        """Returns the most characters that a token of `text` can stand for; None where there is no limit."""
        if self.chars_per_token is None or text.isascii():  # no form composes ASCII
            return self.chars_per_token
        return self.chars_per_token * self.shrinking

    def exceeds(self, text: str, max_tokens: int) -> bool:
        """Returns whether `text` certainly has more than `max_tokens` tokens."""
        most_chars = self.chars_per_token_of(text)
        if most_chars is None or len(text) <= max_tokens * most_chars:
            return False
        return not any(token in text for token in self.stripping_tokens)


def text_bound(tokenizer: tokenizers.Tokenizer) -> TextBound:
    """Returns the bound of a tokenizer; takes some milliseconds."""
    shrinking = _shrinking(_steps(tokenizer.normalizer, "normalizers"))
    added = tokenizer.get_added_tokens_decoder().values()
    stripping = [token for token in added if token.lstrip or token.rstrip]
    if (
        shrinking is None
        # Such a token is found in the text only once that is normalized: <mask> in <MASK>.
        or (tokenizer.normalizer is not None and any(token.normalized for token in stripping))
        or not _keeps_all(_steps(tokenizer.pre_tokenizer, "pretokenizers"))
        or not _knows_all(tokenizer)
    ):
        return TextBound(None)
    # A piece that stands for bytes has at least as many characters as the text.
    longest = max(map(len, tokenizer.get_vocab(with_added_tokens=True)), default=1)
    return TextBound(max(1, longest), shrinking, tuple(token.content for token in stripping))


def _steps(component: Any, name: str) -> list[Step]:
    """Returns what a component of a tokenizer does, step by step, as tokenizer.json has it."""
    return [] if component is None else _flat(json.loads(component.__getstate__()), name)


def _flat(step: Step, name: str) -> list[Step]:
    return [one for part in step[name] for one in _flat(part, name)] if step["type"] == "Sequence" else [step]


def _shrinking(normalizer: Sequence[Step]) -> int | None:
    """Returns how many characters of the text become one at most; None where there is no limit."""
    factor = 1
    for step in normalizer:
        pattern = step.get("pattern", {}).get("String")
        if step["type"] == "Replace" and pattern is not None and len(pattern) <= len(step["content"]):
            continue
        if step["type"] not in _SHRINKING:
            return None
        factor *= _SHRINKING[step["type"]]
    return factor


def _keeps_all(pre_tokenizer: Sequence[Step]) -> bool:
    """Returns whether every character is still there when the text is cut."""
    return all(
        step["type"] in _KEEPING_PRE_TOKENIZERS or step.get("behavior", "Removed") != "Removed"
        for step in pre_tokenizer
    )


def _knows_all(tokenizer: tokenizers.Tokenizer) -> bool:
    """Returns whether every character becomes a token of its own at least: no unknown ones are dropped or merged."""
    if not isinstance(tokenizer.model, BPE):
        return False
    pieces = tokenizer.get_vocab(with_added_tokens=False)
    if tokenizer.model.byte_fallback:
        return all(f"<0x{byte:02X}>" in pieces for byte in range(len(BYTE_OF_CHAR)))
    steps = [*_steps(tokenizer.normalizer, "normalizers"), *_steps(tokenizer.pre_tokenizer, "pretokenizers")]
    return any(step["type"] == "ByteLevel" for step in steps) and BYTE_OF_CHAR.keys() <= pieces.keys()
