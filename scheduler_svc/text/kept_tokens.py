"""Makes special tokens a part of the text: those that mark what readers of answers look for, or all of them."""

from collections.abc import Iterable, Sequence

from scheduler_svc.text.tokenizer import Tokenizer


class KeepingDecoder:
    """Decodes as the tokenizer does, and writes special tokens out.

    Args:
        tokenizer: The model's.
        words: Texts of tokens to write out, as far as the tokenizer has them; None: all.
    """

    def __init__(self, tokenizer: Tokenizer, words: Iterable[str] | None) -> None:
        self._tokenizer = tokenizer
        texts = tokenizer.special_tokens
        kept = tokenizer.special_token_ids if words is None else {texts[word] for word in words if word in texts}
        self._special_token_ids = tokenizer.special_token_ids - kept

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids of tokens that are not part of the text."""
        return self._special_token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of tokens, none of which is left out."""
        return self._tokenizer.decode(token_ids, with_special_tokens=True)
