import itertools
import random

from scheduler_svc.timeline.worker_clock import WorkerClock


def place_all(steps: list[tuple[float, float, float]], delay_s: float, rng: random.Random) -> list[tuple[float, float]]:
    """Places steps of (idle, untold, duration) seconds whose answers take `delay_s` and sometimes much longer."""
    clock, now_s, placed = WorkerClock(), 100.0, []
    for idle_s, untold_s, duration_s in steps:
        now_s += idle_s + untold_s
        sent_s = now_s - 0.001
        now_s += duration_s
        late_s = 0.01 if rng.random() < 0.2 else 0.0
        placed.append(clock.place(idle_s, duration_s, sent_s, now_s + delay_s + late_s))
    return placed


def test_steps_are_placed_within_their_delivery_and_never_overlap() -> None:
    rng = random.Random(1)
    steps = [(rng.choice((0.0, 0.0005, 0.2)), 0.0, rng.uniform(0.001, 0.05)) for _ in range(300)]
    placed = place_all(steps, 0.0005, rng)
    true_s = 100.0
    for (idle_s, _, duration_s), (begin_s, end_s) in zip(steps, placed, strict=True):
        true_s += idle_s + duration_s
        assert true_s - 1e-6 <= end_s <= true_s + 0.0111
        assert begin_s <= end_s
    for (_, end_s), (begin_s, _) in itertools.pairwise(placed):
        assert begin_s >= end_s


def test_time_that_the_worker_does_not_tell_of_does_not_add_up() -> None:
    steps = [(0.0001, 0.0005, 0.01)] * 500
    placed = place_all(steps, 0.0002, random.Random(2))
    true_s = 100.0 + 500 * 0.0106
    assert abs(placed[-1][1] - true_s) < 0.003


def test_no_step_begins_before_it_was_sent() -> None:
    clock = WorkerClock()
    clock.place(0.0, 0.01, 1.0, 1.02)
    begin_s, _ = clock.place(0.1, 0.01, 2.0, 2.5)  # it told of less time than had passed
    assert begin_s >= 2.0 - 1e-9
