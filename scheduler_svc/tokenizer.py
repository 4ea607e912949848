"""Owns the served model's tokenizer: text to token ids and back.

Knows nothing of requests, streams or threads; `encode` releases the interpreter lock, so it may run on another thread.
The library's panics leave as LibraryPanic.
"""

from collections.abc import Sequence

import tokenizers

from scheduler_svc.panics import panics_as_errors


class Tokenizer:
    """A tokenizer of the `tokenizers` library.

    Attributes:
        special_token_ids: Ids of tokens such as `</s>` that are not part of the text.
    """

    @panics_as_errors
    def __init__(self, tokenizer_json: bytes) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        # A checkpoint's tokenizer may truncate or pad for training; a prompt that is too long is refused, never cut.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_token_ids = frozenset(token_id for token_id, token in added.items() if token.special)

    @panics_as_errors
    def encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Returns the ids of `text`, with the tokens that the model expects around a text if `add_special_tokens`.

        Special tokens written out in `text` become those tokens, as in transformers. Takes about 0.5 us a character.
        """
        # The batch call releases the interpreter lock and the single one does not; "fast" skips character offsets.
        encodings = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return tuple(encodings[0].ids)

    @panics_as_errors
    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of `token_ids` without special tokens; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    @panics_as_errors
    def token_text(self, token_id: int) -> str:
        """Returns the text of one token by itself, special or not; a part of a character becomes U+FFFD."""
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text
