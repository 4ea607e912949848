"""The options of loads whose requests begin alike."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from qllm.client.bench.load.memory.prefix_loads import SystemPrompt, Talk
from qllm.settings import Setting

_LOAD, _MEASURING = "What is asked", "Measuring"


class PrefixPart(StrEnum):
    """A load whose requests begin alike."""

    REPEAT = "repeat"
    TURNS = "turns"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class PrefixOptions:
    """What is asked, and how often."""

    prefix_tokens: Annotated[
        int,
        Setting(1, panel=_LOAD),
        "repeat: sets how many tokens both requests of a pair begin with.",
    ] = 1000
    own_tokens: Annotated[
        int,
        Setting(1, panel=_LOAD),
        "repeat and system: sets how many further tokens each request has of its own.",
    ] = 32
    conversations: Annotated[
        int,
        Setting(1, 4096, panel=_LOAD),
        "turns: holds so many conversations at the same time.",
    ] = 4
    turns: Annotated[
        int,
        Setting(2, 4096, panel=_LOAD),
        "turns: sets how many turns each conversation has.",
    ] = 6
    first_tokens: Annotated[
        int,
        Setting(1, panel=_LOAD),
        "turns: sets how many tokens the first prompt of a conversation has.",
    ] = 400
    turn_tokens: Annotated[
        int,
        Setting(1, panel=_LOAD),
        "turns: sets how many tokens each later turn adds to all that was said before.",
    ] = 100
    system_tokens: Annotated[
        int,
        Setting(1, panel=_LOAD),
        "system: sets how many tokens all requests begin with.",
    ] = 1000
    requests: Annotated[
        int,
        Setting(1, 1_000_000, panel=_LOAD),
        "system: sends so many requests.",
    ] = 24
    clients: Annotated[
        int,
        Setting(1, 4096, panel=_LOAD),
        "system: sends so many requests at a time. The first ones meet an empty cache together.",
    ] = 4
    max_tokens: Annotated[
        int,
        Setting(1, panel=_LOAD),
        "turns and system: asks for so many tokens in each answer.",
    ] = 32
    apart: Annotated[
        bool,
        Setting(panel=_LOAD),
        "turns and system: measures the same load also with a cache_salt of its own in each request, so that nothing "
        "is shared, in turns. The server must know that field.",
    ] = True
    vocab_size: Annotated[
        int | None,
        Setting(16, panel=_LOAD, unset="what a gRPC service says, else 1024"),
        "Keeps the token ids of prompts below this number.",
    ] = None
    seed: Annotated[
        int,
        Setting(panel=_LOAD),
        "Fixes all prompts. A server over --http that does not know the field cache_salt may find the prompts of an "
        "earlier run in its cache: give it another seed each time.",
    ] = 0
    pairs: Annotated[
        int,
        Setting(1, 100_000, panel=_MEASURING),
        "repeat: measures so many pairs of a cold and a repeated prefix, each of other tokens.",
    ] = 20
    rounds: Annotated[
        int,
        Setting(1, 1000, panel=_MEASURING),
        "turns and system: measures each load so often, with other tokens in each round.",
    ] = 3

    @property
    def talk(self) -> Talk:
        """The conversations."""
        return Talk(self.conversations, self.turns, self.first_tokens, self.turn_tokens, self.max_tokens)

    @property
    def system_prompt(self) -> SystemPrompt:
        """The requests with one system prompt."""
        return SystemPrompt(self.requests, self.clients, self.system_tokens, self.own_tokens, self.max_tokens)
