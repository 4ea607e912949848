"""The figures of loads whose requests begin alike. Pure."""

from collections.abc import Sequence

from qllm.client.bench.load.memory.asking import Answer
from qllm.client.bench.results.answers import hit_percent, mean_ttft_ms, num_cached, ttfts_ms
from qllm.client.bench.results.spread import percentile
from qllm.client.bench.results.turns import Figure, Figures

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


def repeat_figures(answer: Answer, *, tells_cached: bool) -> Figures:
    """Computes the figures of one request of a pair.

    Args:
        answer: The answer to it.
        tells_cached: Whether the server says what it found in its cache (see `answers.tell_cached`).
    """
    return {"ttft_ms": mean_ttft_ms([answer]), "hit_percent": hit_percent([answer]) if tells_cached else None}


def load_figures(conversations: Sequence[Sequence[Answer]], seconds: float, *, tells_cached: bool) -> Figures:
    """Computes the figures of conversations that took so long together.

    The prompts of first turns have nothing in common with others; requests of one turn only have no later ones.

    Args:
        conversations: The answers of each, in order.
        seconds: How long all took together.
        tells_cached: Whether the server says what it found in its cache (see `answers.tell_cached`).
    """
    answers = [answer for each in conversations for answer in each]
    times_ms = ttfts_ms(answers)
    has_later = any(len(each) > 1 for each in conversations)
    return {
        "seconds": seconds,
        "num_prompt_tokens": sum(answer.num_prompt_tokens for answer in answers),
        "num_cached_tokens": num_cached(answers) if tells_cached else None,
        "hit_percent": hit_percent(answers) if tells_cached else None,
        "ttft_ms": mean_ttft_ms(answers),
        "ttft_p99_ms": percentile(times_ms, 99) if times_ms else None,
        "first_ttft_ms": mean_ttft_ms([each[0] for each in conversations]) if has_later else None,
        "later_ttft_ms": mean_ttft_ms([answer for each in conversations for answer in each[1:]]),
    }
