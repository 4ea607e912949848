"""A generation as a caller asks for it, before anything in it was judged: what front ends translate their messages to.

Knows nothing of wire formats. What a value may be is decided in validation.py and prompt.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from scheduler_svc.core.beams.params import EarlyStopping
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import Amount
from scheduler_svc.text.chat_template import ChatTurn

DEFAULT_MAX_TOKENS = 256
_MOST_SHOWN_CHARS = 300


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A text to continue; with the tokens that the model expects around a text, unless those are left out."""

    text: str
    add_special_tokens: bool = True


class ToolChoice(StrEnum):
    """Whether the answer calls functions: as the model likes, never, always, or one that is named."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class ToolDraft:
    """A function that the answer may call.

    Attributes:
        parameters: JSON schema of its arguments; None: it has none.
        strict: Whether calls should keep to the schema; the template is told.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolsDraft:
    """The functions that the answer may call.

    Attributes:
        named: The function of ToolChoice.NAMED.
        parallel: Whether there may be several calls.
    """

    tools: Sequence[ToolDraft]
    choice: ToolChoice = ToolChoice.AUTO
    named: str = ""
    parallel: bool = True

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return self.choice in (ToolChoice.REQUIRED, ToolChoice.NAMED)


@dataclass(frozen=True, slots=True)
class TemplateDraft:
    """How the chat template is asked.

    Attributes:
        variables: Plain data that it is given; what it knows is the template's.
        reasoning_effort: Refused where the template does not know it.
        begins_answer: Whether the prompt ends with the beginning of an answer.
        continues: Whether the answer goes on with the last turn.
    """

    variables: Mapping[str, Any] = field(default_factory=dict)
    reasoning_effort: str | None = None
    begins_answer: bool = True
    continues: bool = False


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation to answer, oldest turn first."""

    turns: Sequence[ChatTurn]
    tools: ToolsDraft | None = None
    template: TemplateDraft = field(default_factory=TemplateDraft)


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
        num_prompt_logprobs: So many are told with each token of the prompt; None tells nothing of the prompt.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Sequence[tuple[int, float]] = ()
    allowed_token_ids: Sequence[int] = ()
    bad_words: Sequence[str] = ()
    num_top_logprobs: int = 0
    num_prompt_logprobs: int | None = None


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

    @property
    def field(self) -> str:
        """The field of GenerateRequest that it came in."""
        return f"structure.{self.kind}"

    @property
    def shown(self) -> object:
        """What to show of it in an error: short ones are shown whole."""
        num_chars = sum(map(len, self.texts))
        if num_chars > _MOST_SHOWN_CHARS:
            return Amount(num_chars, "characters")
        match self.kind:
            case StructureKind.JSON_OBJECT:
                return True
            case StructureKind.CHOICES:
                return list(self.texts)
        return self.texts[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopDraft:
    """When the text shall end.

    Attributes:
        max_tokens: None takes `default_max_tokens`, or what the context still holds if that is less.
        include_stop_string: Whether what ended the text is a part of it.
    """

    max_tokens: int | None = None
    default_max_tokens: int = DEFAULT_MAX_TOKENS
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    stop_strings: Sequence[str] = ()
    include_stop_string: bool = False


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
        truncate_prompt_tokens: How many tokens of the prompt are kept, its last ones; -1: as many as the context holds.
            None refuses one that is too long.
        beams: How to search for texts; None: one is sampled.
        show_special_tokens: Whether special tokens are a part of the text.
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
    truncate_prompt_tokens: int | None = None
    beams: BeamDraft | None = None
    show_special_tokens: bool = False
