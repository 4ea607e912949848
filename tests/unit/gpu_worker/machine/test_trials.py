"""Ways are timed in turns and by their shortest time, so that one bad second decides nothing."""

from collections.abc import Callable

import pytest

from gpu_worker.machine.trials import is_clearly_less, least_times_s


class Machine:
    """A clock, and ways that take so long on it, ten times as long until some moment.

    Args:
        busy_until_s: The moment.
    """

    def __init__(self, busy_until_s: float = 0.0) -> None:
        self._busy_until_s = busy_until_s
        self.now_s = 0.0
        self.order: list[str] = []

    def clock(self) -> float:
        return self.now_s

    def way(self, name: str, takes_s: float) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now_s += takes_s * (10 if self.now_s < self._busy_until_s else 1)

        return run


def test_ways_take_turns() -> None:
    machine = Machine()
    least_times_s([machine.way("a", 0.001), machine.way("b", 0.002)], machine.clock)
    assert machine.order == ["a", "b"] * (len(machine.order) // 2)
    assert len(machine.order) >= 20


@pytest.mark.parametrize("busy_until_s", [0.0, 0.05, 0.3])
def test_a_bad_moment_changes_nothing(busy_until_s: float) -> None:
    machine = Machine(busy_until_s)
    times_s = least_times_s([machine.way("a", 0.003), machine.way("b", 0.002)], machine.clock)
    assert times_s == pytest.approx([0.003, 0.002])


def test_slow_ways_are_not_tried_for_long() -> None:
    machine = Machine()
    assert least_times_s([machine.way("a", 1.0), machine.way("b", 2.0)], machine.clock) == pytest.approx([1.0, 2.0])
    assert machine.now_s <= 15.0


@pytest.mark.parametrize(("time_s", "is_less"), [(0.7, True), (0.89, True), (0.91, False), (1.0, False), (1.4, False)])
def test_a_difference_below_a_tenth_is_none(time_s: float, is_less: bool) -> None:
    assert is_clearly_less(time_s, 1.0) is is_less
