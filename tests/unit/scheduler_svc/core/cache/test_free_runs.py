from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.core.cache.free_runs import FreeRuns


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=60))
def test_every_id_is_there_or_taken_once(num_ids: int, steps: list[tuple[bool, int]]) -> None:
    runs, taken = FreeRuns(num_ids), list[int]()
    for takes, number in steps:
        if takes:
            taken += runs.take(min(number, runs.num_free), taken[-1] if taken else None)
        else:
            for _ in range(min(number, len(taken))):
                runs.add(taken.pop(len(taken) // 2))
        assert sorted([*taken, *runs.ids()]) == list(range(num_ids))
        assert runs.num_free == num_ids - len(taken)
    while taken:
        runs.add(taken.pop())
    assert runs.longest == num_ids
    assert runs.take(num_ids) == list(range(num_ids))


def test_the_longest_run_is_found_among_very_many() -> None:
    runs = FreeRuns(100_000)
    taken = runs.take(100_000)
    for block in taken[::2]:  # 50,000 runs of one id
        runs.add(block)
    runs.add(taken[501])
    assert runs.longest == 3
    assert runs.take(3) == [500, 501, 502]
    assert runs.longest == 1
