"""The last durations of one kind, in the order of their length and within a bounded memory. Knows no tool."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable


class Durations:
    """Seconds that something took, the last few of them.

    Args:
        seconds: Those known already, the oldest first.
        most: How many are kept; a further one replaces the oldest.
    """

    def __init__(self, seconds: Iterable[float] = (), *, most: int) -> None:
        self._by_age = deque(seconds, maxlen=most)
        self._by_length = sorted(self._by_age)

    def __len__(self) -> int:
        return len(self._by_age)

    def add(self, seconds: float) -> None:
        """Keeps one more, in a time that grows with the number kept only as copying that many numbers does."""
        if len(self._by_age) == self._by_age.maxlen:
            del self._by_length[bisect_left(self._by_length, self._by_age[0])]
        self._by_age.append(seconds)
        insort(self._by_length, seconds)

    @property
    def by_length(self) -> list[float]:
        """All of them, the shortest first; not to be changed."""
        return self._by_length

    @property
    def by_age(self) -> list[float]:
        """A copy of all of them, the oldest first."""
        return list(self._by_age)
