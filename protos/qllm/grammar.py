"""Grammars that a text is kept to: how large they may be, and how much work may go into one.

The scheduler checks them and the worker follows them, both by llguidance and within the same limits, so that what one
takes the other takes too.
"""

from llguidance import LLMatcher, LLParserLimits

MAX_GRAMMAR_BYTES = 65_536
# In the library's own units; about 10 ms for a grammar, 4 ms for a step, and 60 MB of states at most.
LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=50_000,
    step_max_items=30_000,
    max_lexer_states=30_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)


def grammar_problem(grammar: str) -> str:
    """Returns what is wrong with a grammar, in the library's words; empty if nothing is."""
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    return messages[0] if is_error else ""
