"""What a server under test looks like to the load: it takes a prompt, and chunks of tokens come back.

Knows nothing of times: whoever reads a stream takes them.
"""

import secrets
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

from qllm.client.messages import RequestClass


@dataclass(frozen=True, slots=True)
class Turn:
    """What a request of a session says about itself.

    Attributes:
        session_id: Names the session.
        expects_tool_call: The tool that the answer is expected to call; empty: not known.
        is_last: Whether no turn follows.
    """

    session_id: str
    expects_tool_call: str = ""
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: a prompt as text or as token ids.

    Attributes:
        index: The request's number in its class; the same number always has the same prompt.
        cache_salt: What is cached of it may be reused by requests of the same salt only; empty: by all without one.
        turn: What it says about its session; None: it belongs to none.
    """

    request_class: RequestClass
    prompt: str | list[int]
    max_tokens: int
    index: int = 0
    cache_salt: str = ""
    turn: Turn | None = None


class RunSalt:
    """A salt for all requests of a run, new in each, so that a server that keeps running has cached none of them.

    What requests of the run share among themselves stays as it is.
    """

    def __init__(self) -> None:
        self._own = secrets.token_hex(8)

    def of(self, ask: Ask) -> str:
        """Returns the salt to send, which differs where those of the requests do."""
        return f"{self._own} {ask.cache_salt}".rstrip()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens that came together.

    Attributes:
        num_tokens: How many they are.
        is_exact: False where the server sends text only, which counts as one token.
        token_ids: The tokens; empty where the target does not tell them.
        text: What they add to the text, likewise.
    """

    num_tokens: int
    is_exact: bool = True
    token_ids: tuple[int, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """What the server said at the end of a stream; None where it said nothing.

    Attributes:
        num_tokens: Tokens that it generated, by its own count.
        num_prompt_tokens: Tokens of the prompt, by its own count.
        queue_ms: Milliseconds that the request waited before any work was done on it.
        num_cached_tokens: Tokens of the prompt that it found in its cache.
    """

    num_tokens: int | None = None
    num_prompt_tokens: int | None = None
    queue_ms: float | None = None
    num_cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What is known about the server.

    Attributes:
        kind: How it is talked to, such as "grpc" or "http".
        address: Where it listens.
        model: The model's name.
        vocab_size: Size of its vocabulary; None if the server does not tell.
        details: Further facts for the reader, such as the policy.
        block_size: Tokens of one block of its cache; None if it does not tell.
        num_blocks: Blocks of its cache, likewise.
        max_model_len: Most tokens of a prompt and its answer, likewise.
    """

    kind: str
    address: str
    model: str
    vocab_size: int | None
    details: Mapping[str, str]
    block_size: int | None = None
    num_blocks: int | None = None
    max_model_len: int | None = None


Stream = AsyncGenerator[Chunk | Ending, None]


class Target(Protocol):
    """A server under test. Safe for any number of streams at a time."""

    async def prepare(self) -> TargetFacts:
        """Finds out what is served, and how to ask for it.

        Raises:
            TargetFailed: The server cannot be measured.
        """

    def stream(self, ask: Ask) -> Stream:
        """Sends the request once reading begins; yields chunks as they come, then one `Ending`. Closing it cancels.

        Raises:
            RequestFailed: No complete answer came; the load counts it and goes on.
            TargetFailed: Likewise, and the load is to end.
        """

    async def counters(self) -> Mapping[str, int]:
        """Returns counters of the server that only grow; none if it has none."""

    async def close(self) -> None:
        """Gives the connections back."""
