"""What a client saw of one request: what it asked for, every message that came back and when, and how it ended.

Plain values, so that the checker can be tried on records that nobody received.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Class(StrEnum):
    """The class of a request."""

    LATENCY_SENSITIVE = "LS"
    BEST_EFFORT = "BE"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request asks for; plans that are equal have equal tokens, whatever happens meanwhile.

    Attributes:
        prompt: Token ids.
        num_tokens: Tokens to generate; the model's end token does not end it earlier.
        seed: Of its choices; None: greedy.
    """

    request_class: Class
    prompt: tuple[int, ...]
    num_tokens: int
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Manner:
    """How a client reads.

    Attributes:
        leaves_after: Messages after which it cancels; None: it reads to the end.
        pause_s: Time that it takes over its second message.
    """

    leaves_after: int | None = None
    pause_s: float = 0.0


PATIENT = Manner()


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream.

    Attributes:
        at_s: When it came.
        finish: Why the generation ended, in the last message; empty in others.
        num_completion_tokens: How many tokens the last message says that there were.
    """

    at_s: float
    sequence_number: int
    token_ids: tuple[int, ...]
    finish: str = ""
    num_completion_tokens: int | None = None


@dataclass(slots=True, eq=False)
class Record:
    """One request as its client saw it.

    Attributes:
        ended_s: When the call ended; None: it has not.
        status: The gRPC status that it ended with, by name; empty: it has not ended.
        retry_after_s: When to come back, as the service said; None: it did not say.
        left: Whether the client cancelled it.
    """

    plan: Plan
    sent_s: float
    manner: Manner = PATIENT
    messages: list[Message] = field(default_factory=list)
    ended_s: float | None = None
    status: str = ""
    details: str = ""
    retry_after_s: float | None = None
    left: bool = False

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All tokens that came."""
        return tuple(token_id for message in self.messages for token_id in message.token_ids)

    @property
    def first_token_s(self) -> float | None:
        """When the first token came."""
        return next((message.at_s for message in self.messages if message.token_ids), None)

    @property
    def is_finished(self) -> bool:
        """Whether its last message came."""
        return any(message.finish for message in self.messages)
