"""Requests outlive the worker: each goes on with the next one, token by token, and ends once, within a bounded time."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.core.state.sequence import FinishReason, RequestClass
from scheduler_svc.errors import BatchFailed, WorkerUnavailable
from scheduler_svc.generation import TokenStream, WorkerState
from scheduler_svc.serving.succession import MOST_IN_VAIN
from tests.support.service.engine_bench import EngineBench
from tests.support.service.fakes import served_model

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
PROMPT = 4


async def read(stream: TokenStream) -> tuple[list[int], FinishReason | None]:
    token_ids, reason = list[int](), None
    async for event in stream:
        token_ids += event.token_ids
        reason = event.finish_reason
    return token_ids, reason


def whole(num_tokens: int) -> tuple[list[int], FinishReason]:
    return list(range(PROMPT, PROMPT + num_tokens)), FinishReason.LENGTH


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 7, 20, 45])
async def test_streams_go_on_with_the_next_worker_without_a_gap_or_a_duplicate(num_steps: int) -> None:
    bench = EngineBench()
    streams = [bench.submit("a", 12), bench.submit("b", 9, BE), bench.submit("c", 5)]
    bench.work(num_steps)
    bench.lose()
    assert bench.engine.worker_state is WorkerState.ABSENT
    bench.join()
    bench.work()
    assert [await read(stream) for stream in streams] == [whole(12), whole(9), whole(5)]


async def test_a_request_that_comes_while_no_worker_is_there_waits_for_the_next_one() -> None:
    bench = EngineBench()
    bench.lose()
    stream = bench.submit("a", 3)
    bench.join()
    bench.work()
    assert await read(stream) == whole(3)


async def test_without_another_worker_requests_end_after_the_stated_time_and_new_ones_are_refused() -> None:
    bench = EngineBench(worker_wait_s=0.01)
    stream = bench.submit("a", 30)
    bench.work(9)
    bench.lose()
    with pytest.raises(WorkerUnavailable, match=r"killed; no worker served for 0\.01 s") as ended:
        await asyncio.wait_for(read(stream), 60)
    assert ended.value.retry_after_s
    with pytest.raises(WorkerUnavailable):
        bench.submit("b", 3)
    assert bench.engine.model is None
    bench.join()
    again = bench.submit("b", 3)
    bench.work()
    assert await read(again) == whole(3)


async def test_before_the_first_worker_requests_are_refused_at_once() -> None:
    bench = EngineBench(joins=False)
    with pytest.raises(WorkerUnavailable, match="no worker has connected yet"):
        bench.submit("a", 3)


async def test_a_worker_that_hangs_and_recovers_costs_nobody_anything() -> None:
    bench = EngineBench()
    stream = bench.submit("a", 6)
    bench.work(3)
    bench.engine.worker_hung("no progress")
    later = bench.submit("b", 2)
    assert bench.engine.worker_state is WorkerState.HUNG
    bench.engine.worker_recovered()
    bench.work()
    assert [await read(stream), await read(later)] == [whole(6), whole(2)]


async def test_requests_of_a_worker_that_hangs_for_too_long_end_and_it_drops_them_when_it_recovers() -> None:
    bench = EngineBench(worker_wait_s=0.01)
    stream = bench.submit("a", 6)
    bench.work(3)
    bench.engine.worker_hung("no progress")
    with pytest.raises(WorkerUnavailable, match="no progress"):
        await asyncio.wait_for(read(stream), 60)
    with pytest.raises(WorkerUnavailable):
        bench.submit("b", 3)
    bench.engine.worker_recovered()
    bench.work()
    loads = bench.engine.loads()
    assert loads.free_blocks == loads.total_blocks


async def test_an_answer_can_be_aborted_while_no_worker_is_there() -> None:
    bench = EngineBench()
    stream = bench.submit("a", 19)
    bench.work(9)
    bench.lose()
    assert bench.engine.abort("a")
    tokens, reason = await read(stream)
    assert reason is FinishReason.ABORTED
    assert tokens == list(range(PROMPT, PROMPT + len(tokens)))
    bench.join()
    assert not bench.steps


async def test_latency_sensitive_requests_go_on_before_best_effort_ones() -> None:
    bench = EngineBench()
    bench.lose()
    bench.submit("b", 3, BE)
    bench.submit("a", 3)
    bench.join()
    assert bench.running() == [2]


async def test_a_worker_that_serves_another_model_ends_the_requests_that_it_cannot_go_on_with() -> None:
    bench = EngineBench()
    stream = bench.submit("a", 9)
    bench.lose()
    bench.join(served_model(name="another"))
    with pytest.raises(WorkerUnavailable, match="another model, another"):
        await read(stream)


async def test_a_worker_with_too_little_room_for_a_request_ends_that_one_alone() -> None:
    bench = EngineBench()
    streams = [bench.submit("long", 400), bench.submit("short", 3)]
    bench.lose()
    bench.join(replace(served_model(), core=replace(served_model().core, num_blocks=4)))
    bench.work()
    with pytest.raises(WorkerUnavailable, match="room for 64 tokens; the request may need 404"):
        await read(streams[0])
    assert await read(streams[1]) == whole(3)


# ---- who killed it


def kill_while(bench: EngineBench, killer: int) -> list[int]:
    """Works until a worker runs that sequence, which kills it; returns who else was in that step."""
    while killer not in bench.running():
        bench.answer()
    others = [seq_id for seq_id in bench.running() if seq_id != killer]
    bench.lose()
    bench.join()
    return others


async def test_a_request_that_kills_every_worker_ends_and_its_neighbours_live() -> None:
    bench = EngineBench()
    bench.lose()
    streams = [bench.submit(name, 4) for name in ("a", "killer", "c")]
    bench.join()
    assert sorted(kill_while(bench, 2)) == [1, 3]
    assert kill_while(bench, 2) == []
    assert kill_while(bench, 2) == []
    bench.work()
    with pytest.raises(BatchFailed, match="died 2 times while it ran this request and no other"):
        await read(streams[1])
    assert [await read(streams[0]), await read(streams[2])] == [whole(4), whole(4)]


async def test_who_was_there_when_a_worker_died_runs_alone_until_it_is_past_that_token() -> None:
    bench = EngineBench()
    bench.lose()
    streams = [bench.submit(name, 6) for name in ("a", "b", "c")]
    bench.join()
    kill_while(bench, 2)
    first_tokens: list[list[int]] = []
    while len(first_tokens) < 3:
        if (now := bench.running()) not in first_tokens:
            first_tokens.append(now)
        bench.answer()
    assert sorted(first_tokens) == [[1], [2], [3]]
    while sorted(bench.running()) != [1, 2, 3]:
        bench.answer()
    bench.work()
    assert [await read(stream) for stream in streams] == [whole(6)] * 3


async def test_a_request_that_gets_on_between_two_deaths_is_not_blamed_for_them() -> None:
    bench = EngineBench()
    stream = bench.submit("a", 100)
    for _ in range(10):
        kill_while(bench, 1)
        bench.work(8)
    bench.work()
    assert await read(stream) == whole(100)


async def test_a_worker_that_hands_over_died_of_nobody() -> None:
    bench = EngineBench()
    stream = bench.submit("a", 9)
    for _ in range(5):
        bench.hand_over()
    bench.work()
    assert await read(stream) == whole(9)


async def test_while_a_suspect_is_on_its_way_nothing_else_is() -> None:
    bench = EngineBench()
    streams = [bench.submit("a", 6, BE), bench.submit("b", 6, BE)]
    bench.work(3)
    assert bench.in_flight() == {1, 2}
    bench.lose()
    bench.join()
    assert bench.in_flight() == {1}
    streams.append(bench.submit("c", 6))  # is sent at once, behind any other best-effort step
    assert bench.in_flight() == {1}
    bench.answer()
    assert 3 in bench.in_flight()
    bench.work()
    assert [await read(stream) for stream in streams] == [whole(6)] * 3


async def test_where_workers_die_whatever_they_run_all_requests_end_and_are_told_when_to_come_back() -> None:
    bench = EngineBench()
    streams = [bench.submit(str(number), 5) for number in range(20)]
    for _ in range(MOST_IN_VAIN - 1):
        assert bench.steps
        bench.lose()
        bench.join()
    bench.lose()
    for stream in streams:
        with pytest.raises((WorkerUnavailable, BatchFailed)):
            await read(stream)
    with pytest.raises(WorkerUnavailable, match="worker after worker dies") as refused:
        bench.submit("refused", 3)
    assert refused.value.retry_after_s
    bench.join()
    again = bench.submit("again", 3)
    bench.work()
    assert await read(again) == whole(3)


# ---- how long it may be without progress


async def test_a_worker_that_runs_a_step_may_be_silent_for_two_seconds_and_twenty_units() -> None:
    bench = EngineBench()
    assert bench.engine.patience_s() is None
    bench.submit("a", 3)
    patience_s = bench.engine.patience_s()
    assert patience_s is not None
    assert 2.0 < patience_s < 2.1
    bench.lose()
    assert bench.engine.patience_s() is None


# ---- any history

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from([LS, BE]), st.integers(1, 12)),
        st.tuples(st.just("answer"), st.integers(1, 9)),
        st.tuples(st.just("abort"), st.integers(0, 9)),
        st.tuples(st.just("lose")),
        st.tuples(st.just("hang")),
    ),
    max_size=40,
)


async def live_through(actions: list[tuple[object, ...]]) -> None:
    bench, streams, lengths = EngineBench(), list[TokenStream](), list[int]()
    for name, *arguments in actions:
        match name, arguments:
            case "submit", [RequestClass() as request_class, int(length)]:
                streams.append(bench.submit(str(len(streams)), length, request_class))
                lengths.append(length)
            case "answer", [int(num_steps)]:
                bench.work(num_steps)
            case "abort", [int(number)]:
                bench.engine.abort(str(number))
            case "lose", []:
                bench.lose()
                bench.join()
            case "hang", []:
                bench.engine.worker_hung("no progress")
                bench.engine.worker_recovered()
    bench.work()
    for number, (stream, length) in enumerate(zip(streams, lengths, strict=True)):
        was_aborted = ("abort", number) in actions
        try:
            tokens, reason = await read(stream)
        except BatchFailed:
            assert actions.count(("lose",)) >= 2  # it ran alone at both
            continue
        except WorkerUnavailable:
            assert actions.count(("lose",)) >= MOST_IN_VAIN
            continue
        assert tokens == whole(len(tokens))[0]
        assert reason is FinishReason.LENGTH or was_aborted
        assert len(tokens) == length or was_aborted
    loads = bench.engine.loads()
    assert loads.free_blocks == loads.total_blocks
    assert not len(bench.engine._live)


@given(ACTIONS)
def test_whatever_dies_every_request_ends_once_with_all_its_tokens(actions: list[tuple[object, ...]]) -> None:
    asyncio.run(live_through(actions))
