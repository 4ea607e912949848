"""Numbers of some answers: how long they took, and what was found in the cache for them. Pure."""

from collections.abc import Iterable, Sequence

from qllm.client.bench.load.memory.asking import Answer
from qllm.client.bench.results.mean import mean_value


def tell_cached(answers: Iterable[Answer]) -> bool:
    """Returns whether the server that gave these answers says what it finds: some servers don't when that is nothing.

    Args:
        answers: All of a run.
    """
    return any(answer.num_cached_tokens is not None for answer in answers)


def num_cached(answers: Iterable[Answer]) -> int:
    """Returns how many tokens of the prompts were found; one of which the server says nothing counts as none."""
    return sum(answer.num_cached_tokens or 0 for answer in answers)


def hit_percent(answers: Sequence[Answer]) -> float | None:
    """Returns which share of all prompt tokens was found, likewise; None of no answers."""
    num_tokens = sum(answer.num_prompt_tokens for answer in answers)
    return 100 * num_cached(answers) / num_tokens if num_tokens else None


def ttfts_ms(answers: Iterable[Answer]) -> list[float]:
    """Returns the times to first tokens, sorted, of those answers that had one."""
    return sorted(1e3 * answer.ttft_s for answer in answers if answer.ttft_s is not None)


def mean_ttft_ms(answers: Iterable[Answer]) -> float | None:
    """Returns the mean of those times; None of none."""
    return mean_value(ttfts_ms(answers))
