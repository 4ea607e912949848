"""Decides how many items to claim: as many as keep the machine busy for a stated time, and no more.

What is not claimed stays in the store, where any scheduler takes it. Nothing is pushed, so nothing need be stolen.
"""

from dataclasses import dataclass

_MOST_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class BestEffortLoad:
    """The best-effort work that is there.

    Attributes:
        is_ready: Whether a worker serves.
        wait_s: After how long a further request would be begun, if best-effort work had the machine to itself.
    """

    is_ready: bool
    wait_s: float = 0.0


class Pull:
    """How many items to claim next.

    It asks for one, two, four and so on, and looks in between at what that did: what an item costs is known once it is
    queued.

    Args:
        ahead_s: For so long there should be work.
        max_items: So many items run at most.
    """

    def __init__(self, ahead_s: float, max_items: int) -> None:
        self._ahead_s = ahead_s
        self._max_items = max_items
        self._step = 1
        self._not_before_s = -float("inf")

    def number(self, load: BestEffortLoad, num_running: int, now_s: float) -> int:
        """Returns how many items to claim now, of which 0 is none."""
        if not load.is_ready or now_s < self._not_before_s:
            return 0
        if load.wait_s >= self._ahead_s:
            self._step = 1
            return 0
        return max(0, min(self._step, self._max_items - num_running))

    def claimed(self, num_wanted: int, num_claimed: int) -> None:
        """Takes in what a claim gave: where there was less than wanted, the next one begins small."""
        self._step = min(2 * self._step, _MOST_AT_ONCE) if num_claimed == num_wanted else 1

    def pause(self, until_s: float) -> None:
        """Claims nothing until then: the service is busy or has no worker, as an item was told."""
        self._not_before_s = max(self._not_before_s, until_s)
