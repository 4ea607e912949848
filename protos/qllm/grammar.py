"""Grammars that a text is kept to: how large they may be, and with which tokens they are read.

The scheduler tries them and the worker follows them, both by llguidance, within the same limits and with the same
tokens, so that what one takes the other takes too. The library's limits alone do not bound what a grammar costs.
"""

from collections.abc import Sequence

from llguidance import LLParserLimits, LLTokenizer
from tokenizers import Tokenizer

MAX_GRAMMAR_BYTES = 65_536
# The library follows rules of rules by recursion, and a stack that is too small ends its process. So whoever tries a
# grammar has less than whoever follows it, whatever both machines' own limits are.
TRIAL_STACK_BYTES, STACK_BYTES = 4 << 20, 16 << 20
# In the library's own units.
LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=50_000,
    step_max_items=30_000,
    max_lexer_states=65_536,  # ten thousand characters of a string that has a longest length
    max_grammar_size=100_000,
    verbose_errors=False,
)
# Others of a batch wait for a mask that takes longer than a step: following a text may take no more processor time than
# this for each token, and so much to spare.
STEP_S, SPARE_S = 0.005, 0.25


class Spare:
    """The processor time that is left for following one text."""

    def __init__(self) -> None:
        self._left_s = SPARE_S

    def spend(self, spent_s: float) -> bool:
        """Counts what one token took; returns whether there was so much."""
        self._left_s = min(SPARE_S, self._left_s + STEP_S - spent_s)
        return self._left_s >= 0


def tokenizer_of(tokenizer_json: bytes, vocab_size: int, end_token_ids: Sequence[int]) -> LLTokenizer:
    """Returns a model's tokens as the library reads them; takes a second and more for large vocabularies.

    Args:
        tokenizer_json: Content of tokenizer.json.
        vocab_size: The model's token ids are below this.
        end_token_ids: Tokens that end a text that is whole.

    Raises:
        Exception: The library can't read it; it raises no particular kind.
    """
    text = tokenizer_json.decode()
    num_tokens = Tokenizer.from_str(text).get_vocab_size(with_added_tokens=True)
    end_tokens = [token_id for token_id in end_token_ids if token_id < num_tokens]  # a model may have more tokens
    if not end_tokens:
        raise ValueError(f"it has none of the model's end tokens {list(end_token_ids)}")
    return LLTokenizer(text, n_vocab=max(vocab_size, num_tokens), eos_token=end_tokens)
