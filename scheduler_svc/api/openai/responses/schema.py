"""What may be in the body of POST /v1/responses, in OpenAI's words; what chat completions have too is as there.

Source: OpenAI's API reference, responses; https://github.com/openresponses/openresponses.
"""

from collections.abc import Sequence, Set
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from scheduler_svc.api.openai.wire.schemas import (
    NOT_ALLOWED,
    GenerationFields,
    Text,
    _by,
    _Strict,
    _text_or_list,
    _text_or_object,
)
from scheduler_svc.api.openai.wire.unsupported import IGNORED_FIELDS, NeutralValues
from scheduler_svc.api.prompt import MAX_CHAT_MESSAGES

LOGPROBS = "message.output_text.logprobs"
_ITEM_KINDS = ("message", "function_call", "function_call_output", "reasoning")
_TEXT_KINDS = ("input_text", "output_text", "refusal")
_MAX_TOKENS = "null: it is max_output_tokens here"
_STATELESS = "null: nothing is kept here between requests; send the conversation so far in input"


def _only(allowed: str, *values: object) -> BeforeValidator:
    """Makes a value that is neither null nor among these be refused, in these words."""

    def check(given: object) -> object:
        if given is not None and given not in values:
            raise PydanticCustomError(NOT_ALLOWED, "{allowed}", {"allowed": allowed})
        return given

    return BeforeValidator(check)


def _type_among(kinds: Sequence[str], reason: str = "", otherwise: str | None = None) -> BeforeValidator:
    """Makes an object of another type be refused for that, and not for its fields.

    Args:
        kinds: The types that there are.
        reason: Why there are no others.
        otherwise: The type of an object that does not say.
    """
    *others, last = map(repr, kinds)
    allowed = (f"{', '.join(others)} or {last}" if others else last) + reason

    def check(given: object) -> object:
        if isinstance(given, dict) and given.get("type", otherwise) not in kinds:
            context = {"allowed": allowed, "field": "type", "given": given.get("type")}
            raise PydanticCustomError(NOT_ALLOWED, "{allowed}", context)
        return given

    return BeforeValidator(check)


class TextPart(_Strict):
    """A part of a message, a text; a refusal of an earlier answer is a text, too."""

    ignored: ClassVar[Set[str]] = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint"})

    type: Literal["input_text", "output_text", "refusal"]
    text: Text | None = None
    refusal: Text | None = None


TextParts: TypeAlias = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[
        list[
            Annotated[
                TextPart,
                _type_among(_TEXT_KINDS, ": only text is understood here"),
            ]
        ],
        Field(fail_fast=True, max_length=MAX_CHAT_MESSAGES),
        Tag("<list>"),
    ],
    _by(_text_or_list, "a text or a list of parts of type input_text or output_text"),
]
_OF_ANSWERS = frozenset({"id", "status", "phase", "agent", "created_by"})


class MessageItem(_Strict):
    """One turn of the conversation; an answer's message may be sent back as it came."""

    ignored: ClassVar[Set[str]] = _OF_ANSWERS

    type: Literal["message"] | None = None
    role: str
    content: TextParts


class FunctionCallItem(_Strict):
    """A call that an answer made."""

    ignored: ClassVar[Set[str]] = _OF_ANSWERS
    neutral: ClassVar[NeutralValues] = {"namespace": (), "caller": ({"type": "direct"},), "async": (False,)}

    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: Text


class FunctionCallOutputItem(_Strict):
    """What a call gave."""

    ignored: ClassVar[Set[str]] = _OF_ANSWERS
    neutral: ClassVar[NeutralValues] = {"namespace": (), "caller": ({"type": "direct"},), "name": ()}

    type: Literal["function_call_output"]
    call_id: Text
    output: TextParts


class ReasoningText(_Strict):
    """A part of what an answer thought."""

    type: Literal["reasoning_text"]
    text: Text


class ReasoningItem(_Strict):
    """What an answer thought, sent back as it came. Nothing is encrypted here."""

    ignored: ClassVar[Set[str]] = _OF_ANSWERS | {"summary"}
    neutral: ClassVar[NeutralValues] = {"encrypted_content": ("",)}

    type: Literal["reasoning"]
    content: Annotated[list[ReasoningText], Field(fail_fast=True, max_length=MAX_CHAT_MESSAGES)] | None = None


def _item_kind(given: object) -> str | None:
    kind = given.get("type", "message") if isinstance(given, dict) else getattr(given, "type", None) or "message"
    return f"<{kind}>"


InputItem: TypeAlias = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[FunctionCallItem, Tag("<function_call>")]
    | Annotated[FunctionCallOutputItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")],
    Discriminator(_item_kind),
    _type_among(_ITEM_KINDS, otherwise="message"),
]
InputField: TypeAlias = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[list[InputItem], Field(fail_fast=True, max_length=MAX_CHAT_MESSAGES), Tag("<list>")],
    _by(_text_or_list, "a text or a list of items"),
]


class FunctionTool(_Strict):
    """A function that the caller runs."""

    ignored: ClassVar[Set[str]] = frozenset({"output_schema"})
    neutral: ClassVar[NeutralValues] = {
        "allowed_callers": (["direct"],),
        "async": (False,),
        "defer_loading": (False,),
    }

    type: Literal["function"]
    name: Text
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(_Strict):
    """The one function that is to be called."""

    type: Literal["function"]
    name: Text


ToolChoiceField: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<text>")]
    | Annotated[
        Annotated[
            NamedFunction,
            _type_among(("function",), ": only functions that the caller runs can be called"),
        ],
        Tag("<object>"),
    ],
    _by(_text_or_object, "'none', 'auto', 'required', or an object with type 'function' and a name"),
]


class TextFormat(_Strict):
    """What the answer's text is kept to."""

    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    description: Text | None = None
    strict: bool | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class TextOptions(_Strict):
    """How the answer's text is to be."""

    neutral: ClassVar[NeutralValues] = {"verbosity": ("medium",)}

    format: TextFormat | None = None


class Reasoning(_Strict):
    """How the model is to think; summaries are not made."""

    neutral: ClassVar[NeutralValues] = {"summary": ("auto",), "generate_summary": ("auto",), "context": ("auto",)}

    effort: Text | None = None


Includable: TypeAlias = Literal[
    "message.output_text.logprobs",
    # What built-in tools and images would bring, which there are none of, and what is not encrypted here.
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class ResponsesRequest(GenerationFields):
    """The body of POST /v1/responses."""

    ignored: ClassVar[Set[str]] = IGNORED_FIELDS - {"metadata", "parallel_tool_calls"}
    neutral: ClassVar[NeutralValues] = {
        "access_programs": (),
        "background": (False,),
        "context_management": ([],),
        "max_tool_calls": (),
        "moderation": (),
        "truncation": ("disabled", "auto"),
    }

    input: InputField
    instructions: Text | None = None
    max_output_tokens: int | None = None
    tools: (
        list[
            Annotated[
                FunctionTool,
                _type_among(("function",), ": tools run where the caller is, none are built in"),
            ]
        ]
        | None
    ) = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[Includable] | None = None
    top_logprobs: int | None = None
    metadata: dict[Text, Text] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include_reasoning: bool | None = None

    previous_response_id: Annotated[None, _only(_STATELESS)] = None
    conversation: Annotated[None, _only(_STATELESS)] = None
    prompt: Annotated[None, _only("null: no prompts are kept here; send instructions and input")] = None
    # Of chat completions, under another name here or without sense.
    n: Annotated[Literal[1] | None, _only("1 or null: a response is one answer", 1)] = None
    max_tokens: Annotated[None, _only(_MAX_TOKENS)] = None
    max_completion_tokens: Annotated[None, _only(_MAX_TOKENS)] = None
    response_format: Annotated[None, _only("null: it is text.format here")] = None
    return_token_ids: Annotated[Literal[False] | None, _only("false or null: they have no place here", False)] = None
