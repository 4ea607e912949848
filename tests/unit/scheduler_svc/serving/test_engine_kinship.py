"""Searches and choices in the engine: how they end, outlive workers, and are counted."""

from dataclasses import replace

import pytest

from scheduler_svc.core.beams.params import BeamParams
from scheduler_svc.core.state.sequence import FinishReason, RequestClass
from scheduler_svc.errors import DuplicateRequest, Overloaded, WorkerKilled
from scheduler_svc.generation import TokenEvent, TokenStream
from tests.support.service.engine_bench import EngineBench

BE = RequestClass.BEST_EFFORT
BEAMS = BeamParams(3, 2)
# The most probable token of the bench's worker says its place, so the best text counts on from the prompt's end.
BEST = (4, 5, 6, 7)


async def events_of(stream: TokenStream) -> list[TokenEvent]:
    return [event async for event in stream]


async def test_a_search_ends_with_one_event_that_has_all_texts() -> None:
    bench = EngineBench()
    stream = bench.submit("search", 4, beams=BEAMS)
    bench.work()
    (event,) = await events_of(stream)
    assert len(event.hypotheses) == 2
    assert event.token_ids == event.hypotheses[0].token_ids == BEST
    assert (event.finish_reason, event.hypotheses[0].score) == (FinishReason.LENGTH, pytest.approx(-0.5))
    assert event.usage is not None
    assert (event.usage.num_prompt_tokens, event.usage.num_output_tokens) == (4, 8)
    assert bench.engine.loads().latency_sensitive.num_finished == 1


@pytest.mark.parametrize("num_steps", range(5))
async def test_a_search_outlives_its_worker_wherever_it_stands(num_steps: int) -> None:
    bench = EngineBench()
    stream = bench.submit("search", 4, beams=BEAMS)
    bench.work(num_steps)
    bench.lose()
    bench.join()
    bench.work()
    (event,) = await events_of(stream)
    assert event.token_ids == BEST
    loads = bench.engine.loads()
    assert loads.free_blocks == loads.total_blocks


@pytest.mark.parametrize("num_steps", range(4))
async def test_a_search_that_is_aborted_leaves_nothing(num_steps: int) -> None:
    bench = EngineBench()
    stream = bench.submit("search", 4, beams=BEAMS)
    bench.work(num_steps)
    assert bench.engine.abort("search")
    bench.work()
    events = await events_of(stream)
    assert [event.finish_reason for event in events] == [FinishReason.ABORTED]
    loads = bench.engine.loads()
    assert loads.free_blocks == loads.total_blocks


async def test_a_beam_that_kills_each_worker_ends_its_search_and_nothing_else() -> None:
    bench = EngineBench()
    stream = bench.submit("search", 40, BE, beams=BEAMS)
    bench.work(3)
    for _ in range(6):
        bench.lose()
        bench.join()
    with pytest.raises(WorkerKilled):
        await events_of(stream)
    other = bench.submit("other", 2)
    bench.work()
    assert (await events_of(other))[-1].finish_reason is FinishReason.LENGTH


async def test_choices_are_counted_in_all_or_none() -> None:
    bench = EngineBench(max_ls_requests=2)
    with pytest.raises(Overloaded):
        bench.engine.submit_choices([bench.request(str(number), 2) for number in range(3)])
    both = bench.engine.submit_choices([bench.request(str(number), 2) for number in range(2)])
    bench.work()
    for stream in both:
        events = await events_of(stream)
        assert [token for event in events for token in event.token_ids] == [4, 5]


async def test_abort_ends_all_choices_of_one_name_which_is_free_afterwards() -> None:
    bench = EngineBench()
    streams = bench.engine.submit_choices([bench.request("several", 20) for _ in range(3)])
    bench.work(3)
    with pytest.raises(DuplicateRequest):
        bench.engine.submit_choices([bench.request("several", 2) for _ in range(2)])
    assert bench.engine.abort("several")
    assert not bench.engine.abort("several")
    bench.work()
    for stream in streams:
        assert (await events_of(stream))[-1].finish_reason is FinishReason.ABORTED
    again = bench.submit("several", 2)
    bench.work()
    assert (await events_of(again))[-1].finish_reason is FinishReason.LENGTH


async def test_the_name_of_choices_is_taken_until_the_last_one_ends() -> None:
    bench = EngineBench()
    first, second = bench.engine.submit_choices([bench.request("several", 20) for _ in range(2)])
    bench.work(3)
    first.close()
    with pytest.raises(DuplicateRequest):
        bench.submit("several", 2)
    second.close()
    bench.submit("several", 2)


async def test_another_choice_leads_where_the_first_one_ends_while_no_worker_is_there() -> None:
    bench = EngineBench()
    streams = bench.engine.submit_choices([bench.request(str(number), 2) for number in range(3)])
    bench.lose()
    assert bench.engine.abort("0")
    bench.join()
    bench.work()
    for stream in streams[1:]:
        events = await events_of(stream)
        assert [token for event in events for token in event.token_ids] == [4, 5]


async def test_a_search_counts_as_all_that_its_beams_may_have() -> None:
    request = replace(EngineBench().request("x", 10), beams=BEAMS)
    assert request.most_tokens == 4 + 3 * 10
