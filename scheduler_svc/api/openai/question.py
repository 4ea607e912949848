"""A request of either API, translated: what is to be generated, and how the answer is to be written.

Knows nothing of HTTP and of how JSON names things.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from scheduler_svc.api.choices.plan import ChoicePlan
from scheduler_svc.api.deltas import Delta
from scheduler_svc.api.draft import Draft
from scheduler_svc.api.openai.token_texts import TokenTexts
from scheduler_svc.api.openai.wire.field_names import FieldNames

JsonObject: TypeAlias = dict[str, object]


class Choice(Protocol):
    """Writes one choice of an answer; its tokens' texts and options are known from its making."""

    def whole(self, delta: Delta) -> JsonObject:
        """Returns the choice when it comes at once."""

    def of_prompt(self, delta: Delta) -> JsonObject:
        """Returns what an answer says of the choice's prompt, beside its choices: a whole one, or its first chunk."""

    def says(self, delta: Delta) -> bool:
        """Whether a chunk would have anything to say: while text is held back there are tokens without any."""

    def part(self, delta: Delta) -> JsonObject:
        """Returns what is new in the choice, for a chunk."""


@dataclass(frozen=True, slots=True)
class NamedDraft:
    """What to generate from one prompt, and what the caller knows its fields as."""

    draft: Draft
    names: FieldNames


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What a stream tells besides the text."""

    include_usage: bool = False
    continuous_usage: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """One request.

    Attributes:
        id_prefix: Begins the answer's id.
        whole_object: What a whole answer calls itself.
        chunk_object: What a chunk calls itself.
        service_tier: As given, to be echoed.
        drafts: One for each prompt.
        choices: What becomes the choices of a prompt.
        stream: None for a whole answer.
        new_choice: Makes the writer of a choice, given its index and what tells its tokens' texts.
    """

    id_prefix: str
    whole_object: str
    chunk_object: str
    service_tier: str | None
    drafts: list[NamedDraft]
    choices: ChoicePlan
    stream: StreamPlan | None
    new_choice: Callable[[int, TokenTexts], Choice]

    def forget_prompts(self) -> None:
        """Lets go of the drafts, whose prompts are tokens by now: the answer may wait for long."""
        self.drafts.clear()
