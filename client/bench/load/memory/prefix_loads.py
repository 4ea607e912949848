"""Loads whose requests begin alike: a repeated prefix, conversations, and a system prompt that all share.

Prompts are token ids. Loads of the same number have the same ones, and others none in common. With `apart`, every
request has a salt of its own, so that a server finds nothing of it in its cache: the same load without sharing.
"""

import asyncio
import itertools
import random
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from qllm.client.bench.load.memory.asking import Answer, ask_once
from qllm.client.bench.load.target import Ask, Target
from qllm.client.bench.load.workload import LS

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Talk:
    """Conversations at the same time, each turn of which repeats all before it.

    Attributes:
        num_conversations: How many there are.
        num_turns: Turns of each.
        first_tokens: Tokens of the first prompt.
        turn_tokens: Tokens that each later one adds to what was said before.
        max_tokens: Tokens of each answer.
    """

    num_conversations: int
    num_turns: int
    first_tokens: int
    turn_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """Requests that begin with the same text.

    Attributes:
        num_requests: How many there are.
        num_clients: How many of them are under way at a time.
        system_tokens: Tokens that all of them begin with.
        own_tokens: Tokens that each adds.
        max_tokens: Tokens of each answer.
    """

    num_requests: int
    num_clients: int
    system_tokens: int
    own_tokens: int
    max_tokens: int


class PrefixLoads:
    """Asks one server.

    Args:
        vocab_size: Token ids are below this.
        seed: Fixes all prompts.
    """

    def __init__(self, target: Target, vocab_size: int, seed: int) -> None:
        self._target = target
        self._vocab_size = vocab_size
        self._seed = seed
        self._chance = random.Random(f"prefix {seed}")
        self._salts = itertools.count(1)

    async def repeat(self, prefix_tokens: int, own_tokens: int) -> tuple[Answer, Answer]:
        """Asks twice with the same prefix, one request after the other; returns the cold answer and the repeated one.

        Raises:
            RequestFailed: The server failed one of them.
        """
        prefix = self._draw(prefix_tokens)
        cold = await self._ask([*prefix, *self._draw(own_tokens)], 1, apart=False)
        return cold, await self._ask([*prefix, *self._draw(own_tokens)], 1, apart=False)

    async def talk(self, talk: Talk, number: int, *, apart: bool) -> list[list[Answer]]:
        """Holds the conversations at the same time; returns the answers of each, in order.

        Raises:
            RequestFailed: The server failed a request; the others are given up.
        """
        chance = random.Random(f"talk {self._seed} {number}")
        texts = [
            [self._draw(talk.turn_tokens if turn else talk.first_tokens, chance) for turn in range(talk.num_turns)]
            for _ in range(talk.num_conversations)
        ]
        return await _all(self._converse(each, talk.max_tokens, apart=apart) for each in texts)

    async def share(self, shared: SystemPrompt, number: int, *, apart: bool) -> list[Answer]:
        """Sends all requests, so many at a time; returns their answers.

        Raises:
            RequestFailed: The server failed a request; the others are given up.
        """
        chance = random.Random(f"system {self._seed} {number}")
        system = self._draw(shared.system_tokens, chance)
        prompts = iter([[*system, *self._draw(shared.own_tokens, chance)] for _ in range(shared.num_requests)])

        async def one_client() -> list[Answer]:
            return [await self._ask(prompt, shared.max_tokens, apart=apart) for prompt in prompts]

        return list(itertools.chain(*await _all(one_client() for _ in range(shared.num_clients))))

    async def _converse(self, texts: Sequence[list[int]], max_tokens: int, *, apart: bool) -> list[Answer]:
        """Holds one conversation; where the server does not tell its tokens, others stand for them."""
        answers: list[Answer] = []
        said: list[int] = []
        for text in texts:
            said += text
            answer = await self._ask(list(said), max_tokens, apart=apart)
            answers.append(answer)
            said += answer.token_ids or [1] * max_tokens
        return answers

    async def _ask(self, prompt: list[int], max_tokens: int, *, apart: bool) -> Answer:
        salt = f"apart {next(self._salts)}" if apart else ""
        return await ask_once(self._target, Ask(LS, prompt, max_tokens, cache_salt=salt))

    def _draw(self, num_tokens: int, chance: random.Random | None = None) -> list[int]:
        return (chance or self._chance).choices(range(self._vocab_size), k=num_tokens)


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Returns what all of them return, at the same time; raises the first failure, and cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(work) for work in works]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in running]
