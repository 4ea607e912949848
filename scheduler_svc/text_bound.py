"""Decides how long a text may be before it is certain that its tokens are too many, without tokenizing it.

Right rather than tight: a tokenizer that may drop or merge text without limit (collapsed spaces, unknown words) has no such
bound. Pure: knows a tokenizer by the content of its tokenizer.json alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler_svc.byte_alphabet import BYTE_OF_CHAR

# A character of the composed forms stands for at most four of the text: no canonical decomposition is longer.
_SHRINKING = {"NFC": 4, "NFKC": 4, "NFD": 1, "NFKD": 1, "Lowercase": 1, "Prepend": 1, "ByteLevel": 1}
_KEEPING_PRE_TOKENIZERS = frozenset({"ByteLevel", "Metaspace", "Digits", "UnicodeScripts"})
_NUM_BYTES = 256


@dataclass(frozen=True, slots=True)
class TextBound:
    """The most characters that a token can stand for.

    Attributes:
        chars_per_token: None where there is no limit.
        stripping_tokens: Texts of tokens that swallow the spaces beside them, however many; a text with one has no bound.
    """

    chars_per_token: int | None
    stripping_tokens: tuple[str, ...] = ()

    def exceeds(self, text: str, max_tokens: int) -> bool:
        """Returns whether `text` certainly has more than `max_tokens` tokens."""
        if self.chars_per_token is None or len(text) <= max_tokens * self.chars_per_token:
            return False
        return not any(token in text for token in self.stripping_tokens)


def text_bound(tokenizer: Mapping[str, Any], longest_token_chars: int) -> TextBound:
    """Returns the bound of a tokenizer.

    Args:
        tokenizer: Content of its tokenizer.json.
        longest_token_chars: Characters of the longest token as the vocabulary writes it; one that stands for bytes has at
            least as many as the text.
    """
    shrinking = _shrinking(tokenizer.get("normalizer"))
    if shrinking is None or not _keeps_all(tokenizer.get("pre_tokenizer")) or not _knows_all(tokenizer):
        return TextBound(None)
    added = tokenizer.get("added_tokens") or ()
    stripping = tuple(token["content"] for token in added if token.get("lstrip") or token.get("rstrip"))
    return TextBound(shrinking * max(1, longest_token_chars), stripping)


def _steps(step: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    """Returns a step, or the steps of a sequence of them."""
    if step is None:
        return []
    return [one for part in step[name] for one in _steps(part, name)] if step["type"] == "Sequence" else [step]


def _shrinking(normalizer: Mapping[str, Any] | None) -> int | None:
    """Returns how many characters of the text become one at most; None where there is no limit."""
    factor = 1
    for step in _steps(normalizer, "normalizers"):
        pattern = step.get("pattern", {}).get("String")
        if step["type"] == "Replace" and pattern is not None and len(pattern) <= len(step["content"]):
            continue
        if step["type"] not in _SHRINKING:
            return None
        factor *= _SHRINKING[step["type"]]
    return factor


def _keeps_all(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """Returns whether every character is still there when the text is cut."""
    return all(
        step["type"] in _KEEPING_PRE_TOKENIZERS or step.get("behavior", "Removed") != "Removed"
        for step in _steps(pre_tokenizer, "pretokenizers")
    )


def _knows_all(tokenizer: Mapping[str, Any]) -> bool:
    """Returns whether every character becomes a token of its own at least: unknown ones are dropped or merged otherwise."""
    model = tokenizer["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "")
    if kind not in ("BPE", "Unigram"):
        return False
    vocab = model["vocab"]
    pieces = {piece for piece, _ in vocab} if isinstance(vocab, list) else vocab.keys()
    if model.get("byte_fallback"):
        return all(f"<0x{byte:02X}>" in pieces for byte in range(_NUM_BYTES))
    steps = [*_steps(tokenizer.get("pre_tokenizer"), "pretokenizers")]
    steps += _steps(tokenizer.get("normalizer"), "normalizers")
    in_bytes = any(step["type"] == "ByteLevel" for step in steps)
    return in_bytes and all(char in pieces for char in BYTE_OF_CHAR)
