import asyncio
from contextlib import aclosing

import pytest
from qllm.client.bench.errors import TargetFailed
from qllm.client.bench.load.load import Load
from qllm.client.bench.load.prompts import PromptForm, Prompts
from qllm.client.bench.load.target import Ask, Chunk, Ending, Stream
from qllm.client.bench.load.workload import BE, LS, ClosedLoop, Lengths

from demo.watched_target import WatchedTarget
from tests.unit.client.bench.fake_target import FakeTarget

PROMPTS = Prompts(PromptForm.TOKENS, vocab_size=50, seed=1)


class CountingTarget(FakeTarget):
    """Answers with the request's number, then the number after it, and so on."""

    async def stream(self, ask: Ask) -> Stream:
        async with aclosing(super().stream(ask)) as stream:
            token_id = ask.index
            async for item in stream:
                yield Chunk(1, token_ids=(token_id,), text=f"{token_id} ") if isinstance(item, Chunk) else item
                token_id += 1


class Notes:
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def sent(self, ask: Ask) -> None:
        self.heard.append(f"sent {ask.index}")

    def received(self, ask: Ask, chunk: Chunk) -> None:
        self.heard.append(f"received {chunk.text.strip()}")

    def ended(self, ask: Ask) -> None:
        self.heard.append(f"ended {ask.index}")


async def read(target: WatchedTarget, index: int) -> list[Chunk | Ending]:
    return [item async for item in target.stream(Ask(BE, [1], 2, index))]


async def test_the_watcher_hears_of_each_step_and_the_load_of_what_the_target_said() -> None:
    notes = Notes()
    items = await read(WatchedTarget(CountingTarget(), notes), 7)
    assert notes.heard == ["sent 7", "received 7", "received 8", "ended 7"]
    assert items == [Chunk(1, token_ids=(7,), text="7 "), Chunk(1, token_ids=(8,), text="8 "), Ending(2, 1, 3.0)]


async def test_tokens_of_whole_answers_are_kept_by_class_and_number_but_for_warm_ups() -> None:
    target = WatchedTarget(CountingTarget(), Notes())
    for index in (-1, 0, 3):
        await read(target, index)
    assert target.tokens(BE) == {0: (0, 1), 3: (3, 4)}
    assert target.tokens(LS) == {}


async def test_an_answer_that_is_left_before_its_end_is_not_kept() -> None:
    inner, notes = CountingTarget(), Notes()
    target = WatchedTarget(inner, notes)
    async with aclosing(target.stream(Ask(BE, [1], 5, 0))) as stream:
        await anext(stream)
    assert target.tokens(BE) == {}
    assert notes.heard == ["sent 0", "received 0"]
    assert inner.num_live == 0


async def test_a_failing_request_ends_the_load() -> None:
    load = Load(WatchedTarget(FakeTarget(failure="INTERNAL"), Notes()), PROMPTS, max_in_flight=10)
    with pytest.raises(TargetFailed, match="a request failed: INTERNAL: it was asked to"):
        await asyncio.wait_for(load.run({LS: ClosedLoop(3, 0.0, Lengths(3, 2))}, load.now_s()), 60)


async def test_facts_and_counters_are_the_targets_own() -> None:
    target = WatchedTarget(FakeTarget(), Notes())
    assert (await target.prepare()).model == "mini"
    assert await target.counters() == {"num_commands": 5}
