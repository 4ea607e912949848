from scheduler_svc.core.sessions import Programs, SessionLimits, ToolTimes
from scheduler_svc.core.sessions.programs import MAX_AHEAD_S, MAX_IDLE_PROGRAMS, MAX_IDLE_S
from scheduler_svc.core.state.sequence import Sequence
from tests.unit.scheduler_svc.core.sessions.turns import turn


def served(programs: Programs, sequence: Sequence, end_s: float, reload_s: float = 1.0) -> bool:
    """Lets a request arrive and end; returns whether it is kept."""
    programs.arrives(sequence, sequence.arrival_s)
    return programs.ends(sequence, end_s, reload_s)


def fixed(ttl_s: float = 10.0) -> Programs:
    return Programs(SessionLimits(session_ttl_s=ttl_s))


def test_a_turn_that_ends_is_kept_until_its_time_is_over() -> None:
    programs, first = fixed(), turn("a")
    assert served(programs, first, end_s=1.0)
    assert programs.num_kept == 1
    assert programs.next_expiry_s == 11.0
    assert programs.expired(10.9) == []
    (kept,) = programs.expired(11.0)
    assert kept.sequence is first
    programs.release(kept.sequence)
    assert programs.num_kept == 0
    assert programs.expired(20.0) == []


def test_the_next_turn_finds_what_is_kept_and_goes_ahead() -> None:
    programs, first, second = fixed(), turn("a", 5.0), turn("a", 8.0)
    served(programs, first, end_s=6.0)
    programs.arrives(second, 8.0)
    assert programs.kept_for(second) is first
    assert (second.order_s, second.goes_ahead) == (5.0, True)
    assert (programs.num_hits, programs.num_misses) == (1, 0)


def test_a_turn_that_comes_too_late_keeps_its_programs_place_and_goes_ahead_of_nobody() -> None:
    programs, first, second = fixed(), turn("a", 5.0), turn("a", 80.0)
    served(programs, first, end_s=6.0)
    for kept in programs.expired(70.0):
        programs.release(kept.sequence)
    programs.arrives(second, 80.0)
    assert programs.kept_for(second) is None
    assert (second.order_s, second.goes_ahead) == (5.0, False)
    assert (programs.num_hits, programs.num_misses) == (0, 1)


def test_first_turns_and_requests_without_a_session_are_neither_hits_nor_misses() -> None:
    programs, without = fixed(), turn(None)
    assert served(programs, turn("a"), end_s=1.0)
    assert not served(programs, without, end_s=1.0)
    assert (without.order_s, without.goes_ahead) == (None, False)
    assert (programs.num_hits, programs.num_misses) == (0, 0)


def test_nothing_expires_while_a_request_of_its_program_waits() -> None:
    programs, second = fixed(), turn("a", 2.0)
    served(programs, turn("a"), end_s=1.0)
    programs.arrives(second, 2.0)
    assert programs.expired(100.0) == []
    assert programs.next_expiry_s == float("inf")


def test_what_a_turn_was_waiting_for_expires_once_that_has_ended_and_is_not_kept_itself() -> None:
    times = ToolTimes()
    for _ in range(100):
        times.record("search", 4.0)
    programs, first, second = Programs(tool_times=times), turn("a", tool="search"), turn("a", 2.0, tool="search")
    served(programs, first, end_s=1.0, reload_s=100.0)
    programs.arrives(second, 2.0)
    assert programs.expired(50.0) == []
    assert not programs.ends(second, 50.0, reload_s=0.0)
    assert [kept.sequence for kept in programs.expired(50.0)] == [first]


def test_a_last_turn_ends_its_program_and_what_is_kept_of_it() -> None:
    programs, first, last = fixed(), turn("a"), turn("a", 2.0, last=True)
    served(programs, first, end_s=1.0)
    assert not served(programs, last, end_s=3.0)
    assert [kept.sequence for kept in programs.expired(3.0)] == [first]
    following = turn("a", 4.0)
    programs.arrives(following, 4.0)
    assert following.order_s == 4.0  # another program
    assert programs.kept_for(following) is None


def test_a_failed_turn_ends_its_program() -> None:
    programs, first, second = fixed(), turn("a"), turn("a", 2.0)
    served(programs, first, end_s=1.0)
    programs.arrives(second, 2.0)
    programs.fails(second)
    assert [kept.sequence for kept in programs.expired(2.0)] == [first]


def test_a_program_with_two_requests_under_way_goes_on_if_one_fails_and_keeps_the_one_that_ends_last() -> None:
    programs, one, two, three = fixed(), turn("a"), turn("a", 0.5), turn("a", 0.6)
    for sequence in (one, two, three):
        programs.arrives(sequence, sequence.arrival_s)
    programs.fails(one)
    assert programs.ends(two, 1.0, 1.0)
    assert programs.ends(three, 2.0, 1.0)
    assert [kept.sequence for kept in programs.expired(2.0)] == [two]
    assert programs.kept_for(turn("a", 3.0)) is three


def test_nobody_meets_a_program_of_another_salt() -> None:
    programs, stranger = fixed(), turn("a", 2.0, salt=b"other")
    served(programs, turn("a"), end_s=1.0)
    programs.arrives(stranger, 2.0)
    assert programs.kept_for(stranger) is None
    assert stranger.order_s == 2.0


def test_what_is_over_gives_way_first_then_what_arrived_last_and_what_is_waited_for_at_the_end() -> None:
    programs = fixed()
    turns = {name: turn(name, arrival_s) for name, arrival_s in (("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 0.0))}
    for sequence in turns.values():
        served(programs, sequence, end_s=5.0)
    programs.arrives(turn("c", 6.0), 6.0)
    served(programs, turn("d", 6.0, last=True), end_s=7.0)
    assert [kept.sequence for kept in programs.victims()] == [turns[name] for name in "dbac"]


def test_with_a_time_of_zero_nothing_is_kept_and_programs_still_have_their_place() -> None:
    programs, second = fixed(0.0), turn("a", 9.0)
    assert not served(programs, turn("a", 4.0), end_s=5.0)
    programs.arrives(second, 9.0)
    assert second.order_s == 4.0
    assert programs.num_misses == 1


def test_while_too_few_tools_have_run_the_time_is_a_fixed_one() -> None:
    programs = Programs(SessionLimits(session_first_ttl_s=3.0))
    served(programs, turn("a", tool="search"), end_s=1.0)
    assert programs.next_expiry_s == 4.0


def test_a_known_tool_is_waited_for_by_what_it_took_and_by_what_its_return_would_cost() -> None:
    times = ToolTimes()
    for seconds in [0.5] * 80 + [30.0] * 20:
        times.record("search", seconds)
    programs = Programs(tool_times=times)
    assert served(programs, turn("a", tool="search"), end_s=1.0, reload_s=2.0)
    assert programs.next_expiry_s == 1.5
    assert not served(programs, turn("b", tool="search"), end_s=1.0, reload_s=0.1)
    assert served(programs, turn("c", tool="search"), end_s=0.0, reload_s=1000.0)
    assert [kept.until_s for kept in programs.victims() if kept.sequence.session.session_id == "c"] == [30.0]  # type: ignore[union-attr]


def test_what_a_turn_waits_that_found_nothing_makes_the_next_ones_be_kept() -> None:
    times = ToolTimes()
    for _ in range(100):
        times.record("search", 4.0)
    programs = Programs(tool_times=times)
    assert not served(programs, turn("a", tool="search"), end_s=1.0, reload_s=1.0)
    second = turn("a", 5.0, tool="search")
    programs.arrives(second, 5.0)
    programs.began(second, 20.0)
    assert programs.ends(second, 30.0, 1.0)


def test_only_turns_that_found_nothing_tell_what_others_would_wait() -> None:
    programs, first, second = fixed(), turn("a"), turn("a", 2.0)
    programs.arrives(first, 0.0)
    programs.began(first, 50.0)
    programs.ends(first, 1.0, 1.0)
    programs.arrives(second, 2.0)
    programs.began(second, 50.0)
    assert programs.experience.mean_queue_s == 0.0


def test_a_tools_duration_is_from_the_end_of_a_turn_to_the_next_ones_arrival() -> None:
    programs = fixed()
    served(programs, turn("a", tool="search"), end_s=1.0)
    served(programs, turn("a", 3.5), end_s=4.0)
    programs.arrives(turn("a", 10.0), 10.0)
    assert programs.experience.tool_times.snapshot()[1:] == [("search", [2.5]), ("", [6.0])]


def test_a_program_that_stays_away_for_an_hour_is_over_and_its_tool_took_an_hour() -> None:
    programs, late = fixed(0.0), turn("a", 2 * MAX_IDLE_S)
    served(programs, turn("a", tool="search"), end_s=0.0)
    programs.arrives(late, late.arrival_s)
    assert late.order_s == late.arrival_s
    assert programs.experience.tool_times.snapshot()[1:] == [("search", [MAX_IDLE_S])]


def test_of_too_many_idle_programs_the_one_that_was_so_longest_is_forgotten_and_tells_nothing() -> None:
    programs = fixed(0.0)
    for number in range(MAX_IDLE_PROGRAMS + 1):
        served(programs, turn(str(number), 1.0), end_s=1.0)
    forgotten, remembered = turn("0", 2.0), turn("1", 2.0)
    programs.arrives(forgotten, 2.0)
    programs.arrives(remembered, 2.0)
    assert (forgotten.order_s, remembered.order_s) == (2.0, 1.0)
    assert programs.experience.tool_times.num_recorded == 1


def test_a_program_that_waits_is_not_forgotten_however_many_others_are_idle() -> None:
    programs, second, third = fixed(0.0), turn("a", 1.0), turn("a", 2.0)
    served(programs, turn("a"), end_s=0.5)
    programs.arrives(second, 1.0)
    for number in range(MAX_IDLE_PROGRAMS + 1):
        served(programs, turn(str(number), 1.0), end_s=1.0)
    programs.arrives(third, 2.0)
    assert third.order_s == 0.0


def test_a_program_that_never_ends_comes_forward_by_a_bounded_time() -> None:
    programs, late = fixed(), turn("a", 3000.0)
    served(programs, turn("a"), end_s=2999.0)
    programs.arrives(late, 3000.0)
    assert late.order_s == 3000.0 - MAX_AHEAD_S


def test_a_lost_worker_leaves_nothing_to_release_and_idle_programs_their_place() -> None:
    programs, waiting = fixed(), turn("b", 1.0)
    served(programs, turn("a"), end_s=1.0)
    programs.arrives(waiting, 1.0)
    programs.worker_lost()
    assert programs.num_kept == programs.num_hits == programs.num_misses == 0
    assert programs.next_expiry_s == float("inf")
    again, anew = turn("a", 5.0), turn("b", 5.0)
    programs.arrives(again, 5.0)
    programs.arrives(anew, 5.0)
    assert (again.order_s, anew.order_s) == (0.0, 5.0)
    programs.fails(waiting)  # late news of it change nothing
    assert programs.kept_for(anew) is None


def test_a_turn_whose_worker_is_lost_keeps_its_programs_place_and_so_do_those_that_follow() -> None:
    programs, waiting, following = fixed(), turn("a", 90.0), turn("a", 200.0)
    served(programs, turn("a", 10.0), end_s=20.0)
    programs.arrives(waiting, 90.0)
    assert waiting.order_s == 10.0
    programs.worker_lost()
    programs.arrives(waiting, 90.0)
    assert waiting.order_s == 10.0
    served(programs, waiting, end_s=100.0)
    programs.arrives(following, 200.0)
    assert following.order_s == 10.0


def test_of_an_unknown_request_nothing_is_kept() -> None:
    assert not fixed().ends(turn("a"), 1.0, 1.0)


def test_the_tool_that_a_turn_calls_is_learned_without_being_told() -> None:
    for is_late in (False, True):
        programs = Programs(SessionLimits(session_min_records=1, session_first_ttl_s=100))
        first, second = turn("a"), turn("a", 8.0)
        programs.arrives(first, 0.0)
        if not is_late:
            programs.calls(first, "search")
        programs.ends(first, 1.0, 1.0)
        if is_late:
            programs.calls(first, "search")
        programs.arrives(second, 8.0)
        assert programs.experience.tool_times.snapshot() == [(None, [7.0]), ("search", [7.0])]


def test_a_cache_is_kept_as_long_as_the_tool_that_is_called_takes() -> None:
    programs, turns = Programs(SessionLimits(session_min_records=1, session_first_ttl_s=100)), turn("b", tool="search")
    served(programs, turns, end_s=1.0, reload_s=50.0)
    programs.arrives(turn("b", 4.0), 4.0)
    programs.experience.tool_times.record("other", 40.0)
    late = turn("a", 5.0)
    served(programs, late, end_s=6.0, reload_s=50.0)
    programs.calls(late, "search")
    (kept,) = [one for one in programs.victims() if one.sequence is late]
    assert kept.until_s == 9.0  # three seconds, as the tool took before


def test_what_a_request_said_of_its_tool_counts_more_than_what_it_calls() -> None:
    programs, first = fixed(), turn("a", tool="search")
    programs.arrives(first, 0.0)
    programs.calls(first, "other")
    assert first.session is not None
    assert first.session.expects_tool_call == "search"
