"""Free block ids as runs of consecutive ones. A table that stays one run is read by a CPU without gathering.

A new table starts in the middle of the largest run: both it and the table before it then have room to grow in place.

    free run:    ........................      start of the pool: the first table starts at its edge
    first table: AAA.....................
    second:      AAA........BBB..........      each can grow into the dots behind it

Every operation takes a time that does not depend on the number of runs, but for a logarithm.
"""

from heapq import heapify, heappop, heappush


class FreeRuns:
    """A set of ids, kept as runs.

    Attributes:
        num_free: How many ids it holds.
    """

    def __init__(self, num_ids: int) -> None:
        self.num_free = 0
        self._lengths: dict[int, int] = {}  # start -> length
        self._starts: dict[int, int] = {}  # end, which is one past the last -> start
        self._largest: list[tuple[int, int]] = []  # (-length, start), entries of runs that are gone among them
        if num_ids:
            self._insert(0, num_ids)

    @property
    def longest(self) -> int:
        """Length of the longest run."""
        return -self._top()[0] if self._lengths else 0

    def take(self, num_wanted: int, after: int | None = None) -> list[int]:
        """Takes ids out, those behind id `after` first; `num_wanted` must be there."""
        taken: list[int] = []
        if after is not None and after + 1 in self._lengths:
            taken += self._cut(after + 1, after + 1, num_wanted)
        while len(taken) < num_wanted:
            negative_length, run = self._top()
            missing = num_wanted - len(taken)
            spare = -negative_length - missing
            start = run if run == 0 or spare <= 0 else run + spare // 2
            taken += self._cut(run, start, missing)
        return taken

    def add(self, block: int) -> None:
        """Puts an id back, merged with its neighbours."""
        start, end = block, block + 1
        if end in self._lengths:
            end += self._remove(end)
        if start in self._starts:
            start = self._starts[start]
            self._remove(start)
        self._insert(start, end - start)

    def ids(self) -> list[int]:
        """Returns all ids, ascending."""
        return [block for start in sorted(self._lengths) for block in range(start, start + self._lengths[start])]

    def _cut(self, run: int, start: int, num_wanted: int) -> range:
        """Cuts up to `num_wanted` ids out of a run, from `start` on."""
        end_of_run = run + self._remove(run)
        stop = min(start + num_wanted, end_of_run)
        if start > run:
            self._insert(run, start - run)
        if stop < end_of_run:
            self._insert(stop, end_of_run - stop)
        return range(start, stop)

    def _insert(self, start: int, length: int) -> None:
        self._lengths[start] = length
        self._starts[start + length] = start
        self.num_free += length
        heappush(self._largest, (-length, start))
        if len(self._largest) > 64 and len(self._largest) > 4 * len(self._lengths):
            self._largest = [(-each, at) for at, each in self._lengths.items()]
            heapify(self._largest)

    def _remove(self, start: int) -> int:
        """Takes a run out; returns its length."""
        length = self._lengths.pop(start)
        del self._starts[start + length]
        self.num_free -= length
        return length

    def _top(self) -> tuple[int, int]:
        """Returns (-length, start) of the largest run, the first of equal ones."""
        while self._lengths.get(self._largest[0][1]) != -self._largest[0][0]:
            heappop(self._largest)
        return self._largest[0]
