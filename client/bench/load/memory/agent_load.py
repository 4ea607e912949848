"""Runs programs of agents on a server, each as a session: turn, tool, turn. Does not know what the figures are for."""

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from qllm.client.bench.errors import RequestFailed
from qllm.client.bench.load.memory.asking import Answer, ask_once
from qllm.client.bench.load.memory.programs import Program
from qllm.client.bench.load.target import Ask, Target, Turn
from qllm.client.bench.load.workload import BE, Lengths
from qllm.client.messages import RequestClass


@dataclass(slots=True)
class ProgramRecord:
    """What a program met.

    Attributes:
        answers: Those of its turns, in order.
        total_s: From its arrival to its last token, tools included; None while it runs, or if it failed.
        failure: The kind of failure that ended it.
    """

    program: Program
    answers: list[Answer] = field(default_factory=list)
    total_s: float | None = None
    failure: str | None = None


class AgentLoad:
    """One load on one server.

    Args:
        request_class: Class of all turns.
        vocab_size: Token ids are below this.
        name: Part of all session ids, so that those of two loads on one server differ.

    Attributes:
        records: All programs that have arrived, in that order.
        num_background_tokens: Tokens of the best-effort answers beside them.
        most_tokens: The most tokens that prompts and answers of the programs under way had at a time.
    """

    def __init__(self, target: Target, request_class: RequestClass, vocab_size: int, seed: int, name: str) -> None:
        self._target = target
        self._request_class = request_class
        self._vocab_size = vocab_size
        self._seed = seed
        self._name = name
        self.records: list[ProgramRecord] = []
        self.num_background_tokens = 0
        self.most_tokens = 0
        self._num_tokens: dict[int, int] = {}

    async def run(self, programs: Iterable[Program]) -> None:
        """Starts each program at its time; returns when all have ended."""
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        async with asyncio.TaskGroup() as group:
            for program in programs:
                await asyncio.sleep(start_s + program.at_s - loop.time())
                record = ProgramRecord(program)
                self.records.append(record)
                group.create_task(self._run_program(record))

    async def run_background(self, num_clients: int, lengths: Lengths) -> None:
        """Lets so many best-effort clients ask one request after another, until it is cancelled.

        Raises:
            RequestFailed: The server failed one of them.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(num_clients):
                group.create_task(self._run_client(number, lengths))

    async def _run_client(self, number: int, lengths: Lengths) -> None:
        chance = random.Random(f"{self._name} background {self._seed} {number}")
        while True:
            prompt = self._draw(chance, lengths.num_prompt_tokens)
            answer = await ask_once(self._target, Ask(BE, prompt, lengths.max_tokens))
            self.num_background_tokens += len(answer.token_ids)

    async def _run_program(self, record: ProgramRecord) -> None:
        program, now_s = record.program, asyncio.get_running_loop().time
        began_s = now_s()
        chance = random.Random(f"{self._name} program {self._seed} {program.index}")
        said: list[int] = []
        try:
            for step in program.steps:
                said += self._draw(chance, step.num_new_tokens)
                self._note_tokens(program.index, len(said) + step.num_output_tokens)
                turn = Turn(f"{self._name}-{program.index}", step.tool or "", is_last=step.tool is None)
                ask = Ask(self._request_class, list(said), step.num_output_tokens, program.index, turn=turn)
                answer = await ask_once(self._target, ask)
                record.answers.append(answer)
                said += answer.token_ids
                if step.tool is not None:
                    await asyncio.sleep(step.tool_s)
            record.total_s = now_s() - began_s
        except RequestFailed as failure:
            record.failure = f"{failure.kind}: {failure}"
        finally:
            self._num_tokens.pop(program.index, None)

    def _note_tokens(self, index: int, num_tokens: int) -> None:
        self._num_tokens[index] = num_tokens
        self.most_tokens = max(self.most_tokens, sum(self._num_tokens.values()))

    def _draw(self, chance: random.Random, num_tokens: int) -> list[int]:
        return chance.choices(range(self._vocab_size), k=num_tokens)
