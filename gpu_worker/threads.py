"""Decides how many threads the tensor operations of an iteration get, by how many tokens go through it.

Long products of a prompt gain from every core. Those of a few decoding tokens wait for memory, and for the slowest thread, which
on a small machine is the one that the scheduler or a client has just taken the core from. So the number is measured at the start
for iterations of several lengths, and set for each step. It knows no model and no batch.
"""

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import torch

from gpu_worker.sequences import WorkTiming

# So much faster must more threads be: they wait for each other, and the rest of the machine has work to do too.
_WORTH = 1.2


class ThreadPlan:
    """Numbers of threads by the tokens of an iteration.

    Args:
        steps: The fewest tokens from which a number of threads holds, and that number, rising from 0 tokens.
    """

    def __init__(self, steps: Sequence[tuple[int, int]]) -> None:
        self._least_tokens, self._num_threads = zip(*steps, strict=True)

    @classmethod
    def measured(cls, timings_by_threads: Mapping[int, Sequence[WorkTiming]]) -> "ThreadPlan":
        """Makes a plan of the same iterations timed with several numbers of threads.

        Of iterations of one length the fastest counts, which others disturbed least. More tokens never get fewer threads.
        """
        times: dict[int, dict[int, int]] = {}
        for num_threads, timings in timings_by_threads.items():
            for timing in timings:
                num_tokens = timing.attention_tokens // timing.num_attention_stages
                total_ns = timing.attention_ns + timing.expert_ns + timing.head_ns
                by_threads = times.setdefault(num_tokens, {})
                by_threads[num_threads] = min(total_ns, by_threads.get(num_threads, total_ns))
        steps = [(0, min(timings_by_threads))]
        for num_tokens in sorted(times):
            num_threads = fewest_fast_enough(times[num_tokens])
            if num_threads > steps[-1][1]:
                steps.append((num_tokens, num_threads))
        return cls(steps)

    def num_threads(self, num_tokens: int) -> int:
        """Threads for an iteration of so many tokens."""
        number: int = self._num_threads[bisect_right(self._least_tokens, num_tokens) - 1]
        return number

    def apply(self, num_tokens: int) -> None:
        """Gives the operations that follow on this thread what an iteration of so many tokens gets."""
        wanted = self.num_threads(num_tokens)
        if wanted != torch.get_num_threads():
            torch.set_num_threads(wanted)

    def __str__(self) -> str:
        return " ".join(
            f"{least}:{number}" for least, number in zip(self._least_tokens, self._num_threads, strict=True)
        )


def max_num_threads() -> int:
    """Most threads of one tensor operation: every core but one where there are more than two, for the scheduler beside it."""
    num_cores = len(os.sched_getaffinity(0))
    return num_cores if num_cores <= 2 else num_cores - 1


def thread_counts(most: int) -> tuple[int, ...]:
    """Returns the numbers of threads worth trying: 1, 2, 4, ... and the most."""
    return (*(1 << i for i in range(most.bit_length()) if 1 << i < most), most)


def fewest_fast_enough(times_by_threads: Mapping[int, float]) -> int:
    """Returns the fewest threads that all larger numbers are not much faster than."""
    fastest = min(times_by_threads.values())
    return min(n for n, time in times_by_threads.items() if time <= _WORTH * fastest)
