"""Owns the served model's tokenizer: text to token ids and back.

Knows nothing of requests, streams or threads; `encode` releases the interpreter lock, so it may run on another thread.
The library's panics leave as LibraryPanic.
"""

import json
import os
from collections.abc import Sequence

import tokenizers

from scheduler_svc.process.panics import panics_as_errors
from scheduler_svc.text.bound import TextBound, text_bound
from scheduler_svc.text.token_bytes import PieceBytes

# The library would hand each text to threads of its own, as many as cores, where long texts stand before short ones.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class TooManyTokens(Exception):
    """A text has more tokens than were asked for."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__(f"{num_tokens} tokens")
        self.num_tokens = num_tokens


class Tokenizer:
    """A tokenizer of the `tokenizers` library.

    Attributes:
        special_tokens: Ids by text of tokens such as `</s>` that are not part of the text.
        special_token_ids: Their ids.
        bound: How long a text may be before it certainly has too many tokens.
    """

    @panics_as_errors
    def __init__(self, tokenizer_json: bytes) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        # A checkpoint's tokenizer may truncate or pad for training; a prompt that is too long is refused, never cut.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_tokens = {token.content: token_id for token_id, token in added.items() if token.special}
        self.special_token_ids = frozenset(self.special_tokens.values())
        self.bound: TextBound = text_bound(self._tokenizer)
        decoder = self._tokenizer.decoder
        self._piece_bytes = PieceBytes(None if decoder is None else json.loads(decoder.__getstate__()))

    @panics_as_errors
    def encode(self, text: str, *, add_special_tokens: bool, max_tokens: int | None = None) -> tuple[int, ...]:
        """Returns the ids of `text`, with the tokens that the model expects around a text if `add_special_tokens`.

        Special tokens written out in `text` become those tokens, as in transformers. Takes 0.5 to 3 us a character.

        Raises:
            TooManyTokens: There are more than `max_tokens`.
        """
        # The batch call releases the interpreter lock and the single one does not; "fast" skips character offsets.
        [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        num_tokens = len(encoding)
        if max_tokens is not None and num_tokens > max_tokens:
            del encoding  # hundreds of MiB, which the error's traceback would keep
            raise TooManyTokens(num_tokens)
        return tuple(encoding.ids)

    @panics_as_errors
    def decode(self, token_ids: Sequence[int], *, with_special_tokens: bool = False) -> str:
        """Returns the text of `token_ids`; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=not with_special_tokens)
        return text

    @panics_as_errors
    def token_text(self, token_id: int) -> str:
        """Returns a token as the vocabulary writes it; empty for an id without one."""
        return self._tokenizer.id_to_token(token_id) or ""

    def token_bytes(self, token_id: int) -> bytes | None:
        """Returns the bytes that a token stands for wherever it is; None if that depends on the tokens before it."""
        piece = self.token_text(token_id)
        return piece.encode() if token_id in self.special_token_ids else self._piece_bytes.of(piece)
