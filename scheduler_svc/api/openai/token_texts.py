r"""Single tokens and their probabilities, as the APIs show them.

Source: OpenAI's API reference, logprobs; a part of a character is written as there: bytes:\xc3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler_svc.text.detokenizer import NUM_CONTEXT_TOKENS, REPLACEMENT
from scheduler_svc.text.tokenizer import Tokenizer

# JSON has no infinity; vLLM shows a token without probability so.
_LEAST_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True)
class TokenText:
    """One token of a text.

    Attributes:
        data: Its bytes, which may be a part of a character; those of all tokens but special ones, which are no part of
            the text, are together the text's.
        offset: Where it begins in the text, in characters; within a character, where that begins.
    """

    data: bytes
    offset: int

    @property
    def text(self) -> str:
        """The token's text; of parts of characters, their bytes."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.data)


class TokenTexts:
    """Gives each token of one generation its part of the text, in order.

    What a token's text is depends on what stands before it: some decoders write no space at the start of a text.

    Args:
        tokenizer: The model's; None for a model without, whose tokens have no text.
        prompt_token_ids: What the text continues.
        beginning: How the text itself begins, as it is shown; special tokens are in it only if they were written out.

    Attributes:
        prompt_token_ids: As given.
    """

    def __init__(self, tokenizer: Tokenizer | None, prompt_token_ids: Sequence[int], beginning: str = "") -> None:
        self._tokenizer = tokenizer
        self.prompt_token_ids = prompt_token_ids
        self._beginning = beginning
        self._before = [
            token_id
            for token_id in prompt_token_ids[-NUM_CONTEXT_TOKENS:]
            if tokenizer is not None and token_id not in tokenizer.special_token_ids
        ]
        if tokenizer is not None and tokenizer.decode(self._before).endswith(REPLACEMENT):
            self._before = []  # as in IncrementalDetokenizer: the prompt ends inside a character
        self._offset = 0

    def at_start(self, text: str) -> "TokenTexts":
        """Returns the texts of tokens from the prompt's first one on, where that is the beginning of the text.

        Args:
            text: What is shown of the prompt, in which special tokens are only if they were written out.
        """
        return TokenTexts(self._tokenizer, (), text)

    def prompt_text(self) -> str:
        """Returns what the prompt's tokens say, special tokens included."""
        if self._tokenizer is None:
            return ""
        return self._tokenizer.decode(self.prompt_token_ids, with_special_tokens=True)

    def next(self, token_id: int) -> TokenText:
        """Returns what the next token is."""
        data = self._data(token_id)
        goes_on = data[:1] != b"" and _continues_a_character(data[0])
        token = TokenText(data, max(0, self._offset - goes_on))
        if self._tokenizer is not None and token_id not in self._tokenizer.special_token_ids:
            self._before = [*self._before, token_id][-NUM_CONTEXT_TOKENS:]
            self._offset += sum(not _continues_a_character(byte) for byte in data)
        elif self._tokenizer is not None and self._beginning.startswith(token.text, self._offset):
            self._offset += len(token.text)
        return token

    def peek(self, token_id: int) -> TokenText:
        """Returns what the next token would be if it were this one; the text does not go on by it."""
        return TokenText(self._data(token_id), self._offset)

    def _data(self, token_id: int) -> bytes:
        if self._tokenizer is None:
            return b""
        data = self._tokenizer.token_bytes(token_id)
        if data is None:
            before = self._tokenizer.decode(self._before)
            text = self._tokenizer.decode([*self._before, token_id])
            data = text[len(before) :].encode()
        return data


def _continues_a_character(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def finite(logprob: float) -> float:
    """Returns the logprob as a number that JSON has."""
    return max(_LEAST_LOGPROB, logprob)
