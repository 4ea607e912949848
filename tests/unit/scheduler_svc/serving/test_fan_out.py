"""Readers are released a few in each turn of the loop, so that whatever else the loop has to do comes in between."""

from collections.abc import Callable

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.serving.fan_out import MAX_RELEASED_A_TURN, FanOut

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
MANY = 5 * MAX_RELEASED_A_TURN


class Turns:
    """An event loop's turns, with what they released."""

    def __init__(self) -> None:
        self.fan_out = FanOut(lambda callback: self._ahead.append(callback))
        self.released: list[list[str]] = [[]]
        self._ahead: list[Callable[[], None]] = []

    def put(self, *names: str, request_class: RequestClass = LS) -> None:
        for name in names:
            self.fan_out.put(request_class, lambda name=name: self.released[-1].append(name))  # type: ignore[misc]

    def run(self) -> None:
        """Runs until no turn is asked for any more."""
        while self._ahead:
            self.released.append([])
            callbacks, self._ahead = self._ahead, []
            for callback in callbacks:
                callback()

    @property
    def order(self) -> list[str]:
        return [name for turn in self.released for name in turn]


def names(prefix: str, count: int = MANY) -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


def test_a_reader_alone_is_released_at_once() -> None:
    turns = Turns()
    turns.put("only")
    assert turns.released == [["only"]]


def test_no_turn_releases_more_than_its_share_and_nobody_is_forgotten() -> None:
    turns = Turns()
    turns.put(*names("ls"))
    turns.run()
    assert [len(turn) for turn in turns.released if turn] == [MAX_RELEASED_A_TURN] * 5
    assert turns.order == names("ls")


def test_a_reader_that_comes_back_waits_behind_those_who_have_not_had_a_turn() -> None:
    turns = Turns()
    turns.put(*names("ls"), "ls 0")
    turns.run()
    assert turns.order == [*names("ls"), "ls 0"]


def test_latency_sensitive_readers_go_first_and_best_effort_ones_are_not_kept_out() -> None:
    turns = Turns()
    turns.put(*names("be"), request_class=BE)  # some of them before the others came
    turns.put(*names("ls"))
    turns.run()
    for turn in turns.released[1:5]:
        assert sum(name.startswith("be") for name in turn) == 1
        assert len(turn) == MAX_RELEASED_A_TURN
    assert sorted(turns.order) == sorted(names("be") + names("ls"))


def test_once_all_are_released_no_turn_is_asked_for_and_the_next_reader_goes_at_once() -> None:
    turns = Turns()
    turns.put(*names("ls", 3))
    turns.run()
    turns.released.append([])
    turns.put("later")
    assert turns.released[-1] == ["later"]
