import asyncio
from contextlib import suppress
from itertools import islice

import pytest
from qllm.client.bench.errors import TargetFailed
from qllm.client.bench.load.http_target import HttpDialect, HttpTarget
from qllm.client.bench.load.load import TOO_MANY_IN_FLIGHT, Load
from qllm.client.bench.load.measurement import Measurement, Window
from qllm.client.bench.load.prompts import PromptForm, Prompts, calibrate
from qllm.client.bench.load.record import DONE, UNFINISHED
from qllm.client.bench.load.target import Ask, Stream
from qllm.client.bench.load.trace import Trace, TraceRow
from qllm.client.bench.load.workload import BE, LS, ClosedLoop, Lengths, Poisson, Replay, Workload
from qllm.client.bench.results.summary import summarize

from tests.unit.client.bench.fake_openai import FakeOpenAI, completion
from tests.unit.client.bench.fake_target import FakeTarget
from tests.unit.client.bench.samples import NO_OBJECTIVES

PROMPTS = Prompts(PromptForm.TOKENS, vocab_size=50, seed=1)
SHORT = Lengths(3, 2)


class EndingTarget(FakeTarget):
    async def stream(self, ask: Ask) -> Stream:
        if ask.request_class is LS:
            await asyncio.sleep(0.02)
            raise TargetFailed("no more")
        async for item in super().stream(ask):
            yield item


async def run_for(load: Load, workload: Workload, seconds: float) -> None:
    running = asyncio.create_task(load.run(workload, load.now_s()))
    await asyncio.wait([running], timeout=seconds)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def run_until(load: Load, workload: Workload, num_ended: int = 0, num_sent: int = 0) -> None:
    def is_over() -> bool:
        return len(load.records) >= num_sent and sum(one.ended_s is not None for one in load.records) >= num_ended

    running = asyncio.create_task(load.run(workload, load.now_s()))
    while not is_over():  # noqa: ASYNC110 - records do not tell
        await asyncio.sleep(0.005)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_slow_server_delays_no_arrival_and_is_charged_for_the_whole_wait(openai: FakeOpenAI) -> None:
    """Ten requests at once to a real server that serves one at a time: each counts all that it waited for others."""
    openai.slots, openai.step_s = asyncio.Semaphore(0), 0.04
    openai.script = lambda body: [*completion(1)[:1], b"data: [DONE]\n\n"]
    target = HttpTarget(openai.url, model="m", dialect=HttpDialect())
    load = Load(target, PROMPTS, max_in_flight=100)
    burst = Replay(Trace(tuple(TraceRow(0.01, 3, 1) for _ in range(10)), 1e6), 1.0)
    running = asyncio.create_task(run_until(load, {LS: burst}, 10))
    while len(openai.bodies) < 10:  # all are there before the first is served  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    openai.slots.release()
    await running
    await target.close()
    assert len({record.intended_s for record in load.records}) == 1
    summary = summarize(Measurement.of([], load.records, Window(0.0, 60.0), {}, {}), NO_OBJECTIVES)
    assert summary.ls.ttft is not None
    assert summary.ls.ttft.max_ms >= 9 * 80  # the last waits for nine others, two pieces each
    assert summary.ls.ttft.mean_ms >= 4.5 * 80


async def test_latency_counts_from_the_intended_time_when_this_process_is_late() -> None:
    load = Load(FakeTarget(), PROMPTS, max_in_flight=100)
    record = await load.ask(LS, 0, SHORT, load.now_s() - 2.0)
    assert record.sent_s - record.intended_s >= 2.0
    assert record.chunk_times_s[0] - record.intended_s >= 2.0


async def test_an_open_loop_sends_at_the_times_of_its_source() -> None:
    load = Load(FakeTarget(step_s=1000.0), PROMPTS, max_in_flight=1000)
    source = Poisson(100.0, SHORT, "x")
    await run_until(load, {LS: source}, num_sent=20)
    intended_s = [record.intended_s - load.records[0].intended_s for record in load.records]
    planned = [arrival.at_s for arrival in islice(source.arrivals(), len(intended_s))]
    assert intended_s == pytest.approx([at_s - planned[0] for at_s in planned])
    assert all(record.outcome == UNFINISHED for record in load.records)


async def test_closed_loop_clients_ask_one_by_one_and_never_the_same_prompt() -> None:
    target = FakeTarget(step_s=0.002)
    load = Load(target, PROMPTS, max_in_flight=1)
    await run_until(load, {BE: ClosedLoop(3, 0.0, SHORT)}, 12)
    assert target.max_live == 3
    assert len({record.index for record in load.records}) == len(load.records)
    assert len({tuple(ask.prompt) for ask in target.asks}) == len(target.asks)


async def test_both_classes_run_at_a_time() -> None:
    target = FakeTarget()
    load = Load(target, PROMPTS, max_in_flight=100)
    await run_until(load, {LS: Poisson(200.0, SHORT, "x"), BE: ClosedLoop(2, 0.0, SHORT)}, 20)
    assert {ask.request_class for ask in target.asks} == {LS, BE}


async def test_open_loop_requests_beyond_the_limit_are_failures_and_are_not_sent() -> None:
    target = FakeTarget(step_s=1000.0)
    load = Load(target, PROMPTS, max_in_flight=2)
    await run_until(load, {LS: Poisson(1000.0, SHORT, "x")}, 3)
    assert len(target.asks) == 2
    assert [record.outcome for record in load.records[2:5]] == [TOO_MANY_IN_FLIGHT] * 3
    assert load.messages == {TOO_MANY_IN_FLIGHT: "2 requests were in flight"}


async def test_failures_are_noted_and_do_not_end_the_load() -> None:
    load = Load(FakeTarget(failure="HTTP 500"), PROMPTS, max_in_flight=100)
    await run_until(load, {LS: Poisson(500.0, SHORT, "x")}, 5)
    assert [record.outcome for record in load.records[:5]] == ["HTTP 500"] * 5
    assert load.messages == {"HTTP 500": "it was asked to"}


async def test_a_target_can_end_the_load_and_what_is_in_flight_is_given_up() -> None:
    target = EndingTarget(step_s=1000.0)
    load = Load(target, PROMPTS, max_in_flight=100)
    with pytest.raises(TargetFailed, match="no more"):
        await load.run({LS: Poisson(500.0, SHORT, "x"), BE: ClosedLoop(2, 0.0, SHORT)}, load.now_s())
    assert (target.num_live, load.num_in_flight.total()) == (0, 0)
    assert {record.outcome for record in load.records} == {UNFINISHED}


async def test_each_ask_has_its_number_and_the_prompt_that_is_drawn_for_it() -> None:
    target = FakeTarget()
    load = Load(target, PROMPTS, max_in_flight=100)
    await run_until(load, {BE: ClosedLoop(2, 0.0, SHORT)}, num_ended=4)
    assert [ask.index for ask in target.asks[:4]] == [0, 1, 2, 3]
    assert all(ask.prompt == PROMPTS.draw(BE, ask.index, 3) for ask in target.asks)


async def test_a_closed_loop_pauses_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qllm.client.bench.load.load._PAUSE_AFTER_FAILURE_S", 1000.0)
    load = Load(FakeTarget(failure="HTTP 500"), PROMPTS, max_in_flight=100)
    await run_for(load, {BE: ClosedLoop(1, 0.0, SHORT)}, 0.1)
    assert len(load.records) == 1


async def test_a_load_that_is_stopped_gives_up_what_is_in_flight_and_tells_the_server() -> None:
    target = FakeTarget(step_s=1000.0)
    load = Load(target, PROMPTS, max_in_flight=100)
    await run_until(load, {BE: ClosedLoop(4, 0.0, SHORT)}, num_sent=4)
    assert [record.outcome for record in load.records] == [UNFINISHED] * 4
    assert all(record.ended_s is not None for record in load.records)
    assert (target.num_closed, target.num_live, load.num_in_flight.total()) == (4, 0, 0)


async def test_a_complete_answer_is_done_with_what_the_server_said() -> None:
    load = Load(FakeTarget(), PROMPTS, max_in_flight=100)
    record = await load.ask(LS, 0, SHORT, load.now_s())
    assert (record.outcome, record.num_tokens, record.num_prompt_tokens, record.queue_ms) == (DONE, 2, 3, 3.0)


def test_prompts_are_fixed_by_seed_class_and_number() -> None:
    prompt = PROMPTS.draw(LS, 7, 20)
    assert prompt == PROMPTS.draw(LS, 7, 20)
    assert len(prompt) == 20
    assert all(isinstance(token_id, int) and 0 <= token_id < 50 for token_id in prompt)
    others = [PROMPTS.draw(BE, 7, 20), PROMPTS.draw(LS, 8, 20), Prompts(PromptForm.TOKENS, 50, 2).draw(LS, 7, 20)]
    assert prompt not in others


async def test_text_prompts_are_as_long_as_the_server_counts(openai: FakeOpenAI) -> None:
    def count_three_a_word_and_five_around(body: dict[str, str]) -> list[bytes]:
        count = 3 * len(body["prompt"].split()) + 5
        return [f'data: {{"choices": [], "usage": {{"prompt_tokens": {count}}}}}\n\n'.encode(), b"data: [DONE]\n\n"]

    openai.script = count_three_a_word_and_five_around
    target = HttpTarget(openai.url, model="m", dialect=HttpDialect())
    text = await calibrate(Prompts(PromptForm.TEXT, vocab_size=50, seed=1), target)
    await target.close()
    prompt = text.draw(LS, 0, 305)
    assert isinstance(prompt, str)
    assert len(prompt.split()) == 100


async def test_text_prompts_count_words_where_the_server_does_not_tell(openai: FakeOpenAI) -> None:
    openai.script = lambda body: completion(1, usage=False)
    target = HttpTarget(openai.url, model="m", dialect=HttpDialect())
    text = await calibrate(Prompts(PromptForm.TEXT, vocab_size=50, seed=1), target)
    await target.close()
    assert len(str(text.draw(LS, 0, 40)).split()) == 40
