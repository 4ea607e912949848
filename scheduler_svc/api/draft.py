"""A generation as a caller asks for it, before anything in it was judged: what front ends translate their messages to.

Knows nothing of wire formats. What a value may be is decided in validation.py and prompt.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

from scheduler_svc.core.beams.params import EarlyStopping
from scheduler_svc.core.state.sequence import RequestClass

DEFAULT_MAX_TOKENS = 256


class Turn(Protocol):
    """One turn of a conversation."""

    @property
    def role(self) -> str:
        """Who speaks."""

    @property
    def content(self) -> str:
        """What is said."""


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A text to continue."""

    text: str


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation to answer, oldest turn first."""

    turns: Sequence[Turn]


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt that is tokenized already."""

    token_ids: Sequence[int]


Prompt: TypeAlias = TextPrompt | ChatPrompt | TokenPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDraft:
    """How tokens shall be chosen; None takes the model's default.

    Attributes:
        logit_bias: Tokens, each once, with what is added to their logits.
        allowed_token_ids: The only tokens that may be chosen; none: all may.
        bad_words: What the output shall not have.
        num_top_logprobs: So many of the most probable tokens are told with each one.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Sequence[tuple[int, float]] = ()
    allowed_token_ids: Sequence[int] = ()
    bad_words: Sequence[str] = ()
    num_top_logprobs: int = 0


class StructureKind(StrEnum):
    """In which way a structure is described; the names are those of qllm.v1's Structure."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICES = "choices"
    LARK = "lark"


@dataclass(frozen=True, slots=True)
class StructureDraft:
    """What the text shall be kept to.

    Attributes:
        kind: How it is described.
        texts: The description; the choices, of which there may be several.
    """

    kind: StructureKind
    texts: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopDraft:
    """When the text shall end.

    Attributes:
        max_tokens: None takes `default_max_tokens`, or what the context still holds if that is less.
    """

    max_tokens: int | None = None
    default_max_tokens: int = DEFAULT_MAX_TOKENS
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    stop_strings: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetsDraft:
    """In which times the tokens shall come; None takes the service's."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDraft:
    """Which turn of which program it is; an empty tool is not known, an empty `session_id` was not given."""

    session_id: str = ""
    expects_tool_call: str = ""
    last_turn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamDraft:
    """How to search for texts; None takes the default."""

    beam_width: int
    num_returned: int | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping = EarlyStopping.NO
    patience: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One generation to run; an empty `request_id` asks for a new one.

    Attributes:
        deadline_s: When the caller gives up, on the clock of the event loop; None: never.
        cache_salt: Keeps its cache apart from requests of another salt; empty: shared by all without one.
        session: The turn of a program that it is; None: it is none.
        structure: What the text shall be kept to; None: nothing.
        beams: How to search for texts; None: one is sampled.
    """

    request_class: RequestClass
    prompt: Prompt
    request_id: str = ""
    sampling: SamplingDraft = field(default_factory=SamplingDraft)
    stop: StopDraft = field(default_factory=StopDraft)
    targets: TargetsDraft = field(default_factory=TargetsDraft)
    deadline_s: float | None = None
    cache_salt: str = ""
    session: SessionDraft | None = None
    structure: StructureDraft | None = None
    beams: BeamDraft | None = None
