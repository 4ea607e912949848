"""Prompts of a wanted length: the n-th prompt of a class is always the same one.

No two of them begin alike, and targets send them with a salt that is new in each run (see `target.RunSalt`), so that no
server finds one in its prefix cache, unless it knows no salts and met the same seed before.

Token ids have exactly the length asked for, on every server. Text is for servers that take nothing else: its length is
approximate, and `calibrate` finds out how many tokens a word is worth there.
"""

import random
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from qllm.client.bench.load.target import Ask, Ending, Target
from qllm.client.bench.load.workload import BE
from qllm.client.messages import RequestClass

DEFAULT_VOCAB_SIZE = 1024
_TEXT = """
the of and to in is that it was for on are with as at be this have from or had by but what some we can out other
were all there when up use your how said an each she which do their time if will way about many then them write
would like so these her long make thing see him two has look more day could go come did number sound no most
people my over know water than call first who may down side been now find any new work part take get place made
live where after back little only round man year came show every good me give our under name very through just
form sentence great think say help low line differ turn cause much mean before move right boy old too same tell
"""
_WORDS = _TEXT.split()
_FEW_WORDS, _MANY_WORDS = 16, 144


class PromptSource(Protocol):
    """What is asked: the n-th prompt of a class is always the same one, whoever sends it and when."""

    def draw(self, request_class: RequestClass, index: int, num_tokens: int) -> str | list[int]:
        """Returns the class's prompt number `index`, about `num_tokens` long."""

    async def fit(self, target: Target, vocab_size: int) -> "PromptSource":
        """Returns the source as it suits a server whose vocabulary has so many tokens.

        Raises:
            RequestFailed: The server refused a prompt.
        """


class PromptForm(StrEnum):
    """What prompts are sent as."""

    TOKENS = "tokens"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Prompts:
    """Draws prompts.

    Attributes:
        form: Token ids or text.
        vocab_size: Token ids are drawn from [0, vocab_size).
        seed: Fixes all prompts.
        tokens_per_word: For text: tokens that one more word adds.
        template_tokens: For text: tokens that the server puts around any prompt.
    """

    form: PromptForm
    vocab_size: int
    seed: int | str
    tokens_per_word: float = 1.0
    template_tokens: float = 0.0

    def draw(self, request_class: RequestClass, index: int, num_tokens: int) -> str | list[int]:
        """Returns the class's prompt number `index`, `num_tokens` long."""
        chance = random.Random(f"{self.seed} {request_class} {index}")
        if self.form is PromptForm.TOKENS:
            return chance.choices(range(self.vocab_size), k=num_tokens)
        num_words = round((num_tokens - self.template_tokens) / self.tokens_per_word)
        return " ".join(chance.choices(_WORDS, k=max(num_words, 1)))

    async def fit(self, target: Target, vocab_size: int) -> "Prompts":
        """Returns prompts of ids below `vocab_size`, or of texts that are calibrated on the server.

        Raises:
            RequestFailed: The server refused a prompt.
        """
        return await calibrate(replace(self, vocab_size=vocab_size), target)


async def calibrate(prompts: Prompts, target: Target) -> Prompts:
    """Returns prompts whose texts are worth the wanted tokens on this server, if it tells how long prompts are.

    Raises:
        RequestFailed: The server refused a prompt.
    """
    if prompts.form is PromptForm.TOKENS:
        return prompts
    plain = replace(prompts, tokens_per_word=1.0, template_tokens=0.0)
    few = await _count(plain.draw(BE, -1001, _FEW_WORDS), target)
    many = await _count(plain.draw(BE, -1002, _MANY_WORDS), target)
    if few is None or many is None or many <= few:
        return plain
    tokens_per_word = (many - few) / (_MANY_WORDS - _FEW_WORDS)
    template_tokens = max(few - tokens_per_word * _FEW_WORDS, 0.0)
    return replace(plain, tokens_per_word=tokens_per_word, template_tokens=template_tokens)


async def _count(prompt: str | list[int], target: Target) -> int | None:
    """Returns how many tokens the server says that a prompt has."""
    count = None
    async with aclosing(target.stream(Ask(BE, prompt, 1))) as stream:
        async for item in stream:
            if isinstance(item, Ending):
                count = item.num_prompt_tokens
    return count
