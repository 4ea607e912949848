"""Single tokens and their probabilities, as the APIs show them."""

from scheduler_svc.detokenizer import REPLACEMENT
from scheduler_svc.tokenizer import Tokenizer

# JSON has no infinity; vLLM shows a token without probability so.
_LEAST_LOGPROB = -9999.0


def token_text(tokenizer: Tokenizer | None, token_id: int) -> str:
    """Returns the text of a token by itself, U+FFFD for a part of a character; empty for a model without tokenizer."""
    return tokenizer.token_text(token_id) if tokenizer is not None else ""


def token_bytes(text: str) -> list[int] | None:
    """Returns the bytes of a token's text; None if it is a part of a character, whose bytes are not known."""
    return None if REPLACEMENT in text else list(text.encode())


def finite(logprob: float) -> float:
    """Returns the logprob as a number that JSON has."""
    return max(_LEAST_LOGPROB, logprob)
