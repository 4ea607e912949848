"""A step's tokens are never handed to all readers in one turn of the loop, so that the next result need not wait."""

import asyncio

from scheduler_svc.generation import TokenStream
from scheduler_svc.serving.fan_out import MAX_RELEASED_A_TURN
from tests.support.service.engine_bench import MOST_STREAMS, EngineBench


async def test_a_steps_tokens_reach_their_readers_over_several_turns_while_further_steps_go_on() -> None:
    bench = EngineBench()
    num_read: list[int] = []

    async def read(stream: TokenStream) -> list[int]:
        token_ids: list[int] = []
        async for event in stream:
            num_read[-1] += 1
            token_ids += event.token_ids
        return token_ids

    readers = [asyncio.create_task(read(bench.submit(f"r{number}", 3))) for number in range(MOST_STREAMS)]
    while not all(reader.done() for reader in readers):
        num_read.append(0)
        if bench.steps:
            bench.answer()
        await asyncio.sleep(0)
    assert [reader.result() for reader in readers] == [[4, 5, 6]] * MOST_STREAMS
    assert max(num_read) == MAX_RELEASED_A_TURN
