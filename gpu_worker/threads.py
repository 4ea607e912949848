"""Decides how many threads the tensor operations get, by what iterations of several lengths gain from more.

Two cores are twice as fast as one on some machines, and two halves of one on others; so it is measured. One number holds for
every step: changing it with the length of a step was slower in the mixed load. It knows no model and no batch.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from gpu_worker.sequences import WorkTiming

# So much faster must more threads be: each takes a core from whatever else runs on the machine.
_WORTH = 1.1
# Threads that have cores to themselves never take so much longer than fewer of them do, where there is enough to do.
_DISTURBED = 1.2
_ENOUGH_NS = 20_000_000


def thread_counts(most: int) -> tuple[int, ...]:
    """Returns the numbers of threads worth trying: 1, 2, 4, ... and the most."""
    return (*(1 << i for i in range(most.bit_length()) if 1 << i < most), most)


def fewest_fast_enough(timings_by_threads: Mapping[int, Sequence[WorkTiming]]) -> int:
    """Returns the fewest threads that all larger numbers are not much faster than.

    Of iterations of one length the fastest counts, which others disturbed least.

    Args:
        timings_by_threads: The same iterations timed with several numbers of threads.
    """
    times_ns = {num_threads: sum(fastest_ns(timings).values()) for num_threads, timings in timings_by_threads.items()}
    fastest = min(times_ns.values())
    return min(num_threads for num_threads, time_ns in times_ns.items() if time_ns <= _WORTH * fastest)


def were_disturbed(timings_by_threads: Mapping[int, Sequence[WorkTiming]]) -> bool:
    """Whether something else held the cores meanwhile: more threads took much longer for the longest iteration than fewer.

    Args:
        timings_by_threads: The same iterations timed with several numbers of threads.
    """
    times_ns = [fastest_ns(timings) for _, timings in sorted(timings_by_threads.items())]
    longest_ns = [max(by_tokens.items(), default=(0, 0))[1] for by_tokens in times_ns]
    return longest_ns[0] >= _ENOUGH_NS and any(more > _DISTURBED * fewer for fewer, more in pairwise(longest_ns))


def fastest_ns(timings: Sequence[WorkTiming]) -> dict[int, int]:
    """Returns the nanoseconds of the fastest iteration of each number of tokens."""
    times_ns: dict[int, int] = {}
    for timing in timings:
        num_tokens = timing.attention_tokens // timing.num_attention_stages
        total_ns = timing.attention_ns + timing.expert_ns + timing.head_ns
        times_ns[num_tokens] = min(total_ns, times_ns.get(num_tokens, total_ns))
    return times_ns
