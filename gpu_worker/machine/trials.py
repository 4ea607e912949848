"""Times several ways of doing the same, so that a bad second on a machine that others use too decides nothing.

    turn      1            2            3
    way       A  B  C      A  B  C      A  B  C  ...        the shortest time of each counts
    others          ▓▓▓▓▓▓▓▓▓▓▓                            and meet every way alike

What a way does in one turn should take a millisecond or less: the shorter, the more surely some turn is left alone.
Whoever chooses another way than the usual one asks twice. It knows no models.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

_WORTH = 0.9
_NUM_TURNS = 15
_LEAST_TURNS = 4
_LONGEST_S = 1.0


def least_times_s(
    ways: Sequence[Callable[[], object]],
    clock: Callable[[], float] = time.perf_counter,
    longest_s: float = _LONGEST_S,
) -> list[float]:
    """Runs the ways in turns, and returns the shortest time of each in seconds.

    There are 15 turns, or as many as fit into `longest_s`, but no fewer than 4; the one before
    them, which warms caches, does not count.
    """
    for way in ways:
        way()
    times_s = [float("inf")] * len(ways)
    began_s = clock()
    for turn in range(_NUM_TURNS):
        if turn >= _LEAST_TURNS and clock() - began_s > longest_s:
            break
        for number, way in enumerate(ways):
            start_s = clock()
            way()
            times_s[number] = min(times_s[number], clock() - start_s)
    return times_s


def is_clearly_less(time_s: float, than_s: float) -> bool:
    """Whether a time is less than another by more than 10 %, which is more than noise between two measurements."""
    return time_s < _WORTH * than_s


@contextmanager
def one_thread() -> Iterator[None]:
    """Has tensor operations take one thread: others seldom leave all cores alone at once, and one of several soon."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
