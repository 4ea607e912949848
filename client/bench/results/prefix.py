"""The figures of loads whose requests begin alike. Pure."""

import math
from collections.abc import Sequence

from client.bench.load.memory.asking import Answer
from client.bench.results.mean import Mean
from client.bench.results.spread import percentile
from client.bench.results.turns import Figure, Figures

REPEAT_FIGURES = (
    Figure("ttft_ms", "TTFT, ms", is_compared=True),
    Figure("hit_percent", "prompt tokens found in the cache, %"),
)
LOAD_FIGURES = (
    Figure("seconds", "seconds", 2, is_compared=True),
    Figure("num_prompt_tokens", "prompt tokens", 0),
    Figure("num_cached_tokens", "  found in the cache: prefill saved", 0),
    Figure("hit_percent", "  %"),
    Figure("ttft_ms", "TTFT, mean ms", is_compared=True),
    Figure("ttft_p99_ms", "TTFT, p99 ms", is_compared=True),
    Figure("first_ttft_ms", "  first turns, mean ms", is_compared=True),
    Figure("later_ttft_ms", "  later turns, mean ms", is_compared=True),
)


def repeat_figures(answer: Answer) -> Figures:
    """Computes the figures of one request of a pair."""
    return {"ttft_ms": _mean_ttft_ms([answer]), "hit_percent": _hit_percent([answer])}


def load_figures(conversations: Sequence[Sequence[Answer]], seconds: float) -> Figures:
    """Computes the figures of conversations that took so long together.

    The prompts of first turns have nothing in common with others; requests of one turn only have no later ones.
    """
    answers = [answer for each in conversations for answer in each]
    times_ms = sorted(1e3 * answer.ttft_s for answer in answers if answer.ttft_s is not None)
    cached = [answer.num_cached_tokens for answer in answers]
    has_later = any(len(each) > 1 for each in conversations)
    return {
        "seconds": seconds,
        "num_prompt_tokens": sum(answer.num_prompt_tokens for answer in answers),
        "num_cached_tokens": None if None in cached else math.fsum(each or 0 for each in cached),
        "hit_percent": _hit_percent(answers),
        "ttft_ms": _mean_ttft_ms(answers),
        "ttft_p99_ms": percentile(times_ms, 99) if times_ms else None,
        "first_ttft_ms": _mean_ttft_ms([each[0] for each in conversations]) if has_later else None,
        "later_ttft_ms": _mean_ttft_ms([answer for each in conversations for answer in each[1:]]),
    }


def _mean_ttft_ms(answers: Sequence[Answer]) -> float | None:
    mean = Mean.of(1e3 * answer.ttft_s for answer in answers if answer.ttft_s is not None)
    return None if mean is None else mean.value


def _hit_percent(answers: Sequence[Answer]) -> float | None:
    """Returns which share of all prompt tokens was found; None where the server does not say."""
    if not answers or any(answer.num_cached_tokens is None for answer in answers):
        return None
    return 100 * sum(each.num_cached_tokens or 0 for each in answers) / sum(each.num_prompt_tokens for each in answers)
