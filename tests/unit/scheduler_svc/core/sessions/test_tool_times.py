import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.core.sessions.durations import Durations
from scheduler_svc.core.sessions.tool_times import MAX_DURATION_S, ToolTimes

SECONDS = st.floats(0, MAX_DURATION_S)


@given(st.lists(SECONDS, max_size=60), st.integers(1, 20))
def test_the_last_durations_are_kept_in_the_order_of_their_length(seconds: list[float], most: int) -> None:
    durations = Durations(most=most)
    for each in seconds:
        durations.add(each)
    assert durations.by_age == seconds[-most:]
    assert durations.by_length == sorted(seconds[-most:])


def test_a_tool_with_enough_records_is_expected_to_take_what_it_took() -> None:
    times = ToolTimes()
    for each in (3.0, 1.0, 2.0):
        times.record("search", each)
    times.record("compile", 50.0)
    assert times.expected_of("search", enough=3) == [1.0, 2.0, 3.0]


def test_all_tools_stand_for_one_with_too_few_records() -> None:
    times = ToolTimes()
    for each in (3.0, 1.0):
        times.record("search", each)
    times.record("compile", 50.0)
    assert times.expected_of("compile", enough=2) == [1.0, 3.0, 50.0]
    assert times.expected_of("never seen", enough=2) == [1.0, 3.0, 50.0]


def test_nothing_is_expected_of_too_few_records_in_all() -> None:
    times = ToolTimes()
    times.record("search", 3.0)
    assert times.expected_of("search", enough=2) is None


def test_the_tool_that_was_used_longest_ago_is_forgotten_first() -> None:
    times = ToolTimes(max_tools=2)
    for tool in ("a", "b", "a", "c"):
        times.record(tool, 1.0)
    assert [tool for tool, _ in times.snapshot()] == [None, "a", "c"]


def test_a_time_before_the_call_counts_as_none_and_more_than_an_hour_as_an_hour() -> None:
    times = ToolTimes()
    times.record("clock set back", -1.0)
    times.record("a person at lunch", 1e6)
    assert times.snapshot()[0] == (None, [0.0, MAX_DURATION_S])


@given(st.lists(st.tuples(st.sampled_from("abcdef"), SECONDS), max_size=60))
def test_what_was_restored_from_json_goes_on_as_what_was_saved(records: list[tuple[str, float]]) -> None:
    saved, restored = ToolTimes(max_durations=8, max_tools=4), ToolTimes(max_durations=8, max_tools=4)
    for tool, seconds in records:
        saved.record(tool, seconds)
    restored.restore(json.loads(json.dumps(saved.snapshot())))
    for tool in "fa":
        saved.record(tool, 2.0)
        restored.record(tool, 2.0)
    assert restored.snapshot() == saved.snapshot()
    assert restored.expected_of("a", enough=1) == saved.expected_of("a", enough=1)


def test_a_snapshot_of_more_than_is_kept_loses_its_oldest() -> None:
    times = ToolTimes(max_durations=2, max_tools=1)
    times.restore([(None, [1.0, 2.0, 3.0]), ("old", [1.0]), ("new", [4.0, 5.0, 6.0])])
    assert times.snapshot() == [(None, [2.0, 3.0]), ("new", [5.0, 6.0])]


@pytest.mark.parametrize(
    "records",
    [
        [],
        ["text"],
        [[None, [1.0], 3]],
        [[None, "1.0"]],
        [[None, [True]]],
        [[None, [-1.0]]],
        [[None, [float("nan")]]],
        [[None, [1e300]]],
        [[None, [1.0]], [7, [1.0]]],
        [["a", [1.0]]],
    ],
)
def test_what_is_no_snapshot_is_refused_and_changes_nothing(records: list[object]) -> None:
    times = ToolTimes()
    times.record("a", 1.0)
    with pytest.raises(ValueError, match=r"record|allowed"):
        times.restore(records)
    assert times.snapshot() == [(None, [1.0]), ("a", [1.0])]
