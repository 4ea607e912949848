"""One request and its answer, for loads whose next request depends on the last answer."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from qllm.client.bench.load.target import Ask, Chunk, Ending, Target


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Times are seconds from the sending of the request.

    Attributes:
        ttft_s: Until the first token; None if none came.
        total_s: Until the end.
        token_ids: Its tokens; empty where the server does not tell them.
        num_prompt_tokens: Length of the prompt, as it was asked.
        num_cached_tokens: Tokens of it that the server found in its cache; None if it does not say.
    """

    ttft_s: float | None
    total_s: float
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    num_cached_tokens: int | None


async def ask_once(target: Target, ask: Ask) -> Answer:
    """Asks, and reads to the end.

    Raises:
        RequestFailed: No complete answer came.
    """
    now_s = asyncio.get_running_loop().time
    token_ids: list[int] = []
    first_s: float | None = None
    sent_s, ending = now_s(), Ending()
    async with aclosing(target.stream(ask)) as stream:
        async for item in stream:
            if isinstance(item, Chunk):
                first_s = now_s() if first_s is None else first_s
                token_ids += item.token_ids
            else:
                ending = item
    return Answer(
        ttft_s=None if first_s is None else first_s - sent_s,
        total_s=now_s() - sent_s,
        token_ids=tuple(token_ids),
        num_prompt_tokens=len(ask.prompt),
        num_cached_tokens=ending.num_cached_tokens,
    )
