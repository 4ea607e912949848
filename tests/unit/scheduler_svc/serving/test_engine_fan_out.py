"""A step's tokens are never handed to all readers in one turn of the loop, so that the next result need not wait."""

import asyncio
from collections import abc

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.commands import Advance, Command, StartBatch
from scheduler_svc.core.state.results import SampledToken, StepResult, WorkTiming
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, StopConditions
from scheduler_svc.generation import GenerationRequest, TokenStream
from scheduler_svc.serving.engine import Engine, EngineSettings
from scheduler_svc.serving.fan_out import MAX_RELEASED_A_TURN
from tests.support.service.fakes import served_model

NUM_STREAMS = 40
TIMING = WorkTiming(2, 80, 800, 100_000, 16, 160, 200_000, 1, NUM_STREAMS, 50_000)


class Bench:
    """An engine with readers, and how many of them read in each turn of the loop."""

    def __init__(self) -> None:
        self.num_read: list[int] = []
        self.starts: dict[int, StartBatch] = {}
        self.steps: list[Advance] = []
        settings = EngineSettings(limits=Limits(max_num_seqs=NUM_STREAMS, ls_chunk_tokens=4096))
        self.engine = Engine(settings, self._send, self._fail)
        self.engine.worker_joined(5, served_model(), [TIMING], 1)

    def _send(self, commands: abc.Sequence[Command]) -> None:
        self.starts |= {command.batch_id: command for command in commands if isinstance(command, StartBatch)}
        self.steps += [command for command in commands if isinstance(command, Advance)]

    def _fail(self, error: BaseException) -> None:
        raise error

    def submit(self, number: int, max_tokens: int) -> TokenStream:
        stop = StopConditions(max_tokens)
        prompt = tuple(range(3, 7))
        request = GenerationRequest(f"r{number}", RequestClass.LATENCY_SENSITIVE, prompt, SamplingParams(), stop)
        return self.engine.submit(request)

    async def read(self, stream: TokenStream) -> list[int]:
        token_ids: list[int] = []
        async for event in stream:
            self.num_read[-1] += 1
            token_ids += event.token_ids
        return token_ids

    def answer(self) -> None:
        """The worker did the oldest step, to its end."""
        step = self.steps.pop(0)
        items = [item for batch_id in step.batch_ids for item in self.starts[batch_id].items]
        is_end = step.until.layer == served_model().core.num_layers
        tokens = tuple(SampledToken(item.seq_id, 50, -0.5) for item in items if is_end and item.samples)
        self.engine.step_result(StepResult(step.command_id, step.until, 350_000, 0, tokens, (), TIMING))


async def test_a_steps_tokens_reach_their_readers_over_several_turns_while_further_steps_go_on() -> None:
    bench = Bench()
    readers = [asyncio.create_task(bench.read(bench.submit(number, 3))) for number in range(NUM_STREAMS)]
    while not all(reader.done() for reader in readers):
        bench.num_read.append(0)
        if bench.steps:
            bench.answer()
        await asyncio.sleep(0)
    assert [reader.result() for reader in readers] == [[50] * 3] * NUM_STREAMS
    assert max(bench.num_read) == MAX_RELEASED_A_TURN
