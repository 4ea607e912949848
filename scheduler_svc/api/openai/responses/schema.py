"""What may be in the body of POST /v1/responses, in OpenAI's words; what chat completions have too is as there.

Source: OpenAI's API reference, responses; https://github.com/openresponses/openresponses.
"""

import json
from collections.abc import Sequence, Set
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from scheduler_svc.api.openai.wire.schemas import GenerationFields
from scheduler_svc.api.openai.wire.strict import Strict
from scheduler_svc.api.openai.wire.unsupported import IGNORED_FIELDS, NEUTRAL_IN_CHAT, NeutralValues, is_among
from scheduler_svc.api.openai.wire.values import NOT_ALLOWED, by_kind, text_or_list, text_or_object
from scheduler_svc.api.prompt import MAX_CHAT_MESSAGES

LOGPROBS = "message.output_text.logprobs"
_ITEM_KINDS = ("message", "function_call", "function_call_output", "reasoning")
_TEXT_KINDS = ("input_text", "output_text", "refusal")
_REFUSED = "Refused, with where to say it instead."
_SEARCHES = "null: a response is one answer, and is not searched for; chat completions do that"
_MAX_TOKENS = "null: it is max_output_tokens here"
_STATELESS = "null: nothing is kept here between requests; send the conversation so far in input"


def _only(allowed: str, *values: object) -> BeforeValidator:
    """Makes a value that is neither null nor among these be refused, in these words."""

    def check(given: object) -> object:
        if given is not None and not is_among(given, values):
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
    *others, last = map(json.dumps, kinds)
    allowed = (f"{', '.join(others)} or {last}" if others else last) + reason

    def check(given: object) -> object:
        if isinstance(given, dict) and given.get("type", otherwise) not in kinds:
            context = {"allowed": allowed, "field": "type", "given": given.get("type")}
            raise PydanticCustomError(NOT_ALLOWED, "{allowed}", context)
        return given

    return BeforeValidator(check)


class ItemPart(Strict):
    """A part of a message, a text; a refusal of an earlier answer is a text, too."""

    ignored: ClassVar[Set[str]] = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint"})

    type: Literal["input_text", "output_text", "refusal"] = Field(
        description="What part it is; all of them are read as text."
    )
    text: str | None = Field(None, description="The text.")
    refusal: str | None = Field(None, description="The text of a refusal.")


ItemContent: TypeAlias = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[
        list[
            Annotated[
                ItemPart,
                _type_among(_TEXT_KINDS, ": only text is understood here"),
            ]
        ],
        Field(fail_fast=True, max_length=MAX_CHAT_MESSAGES),
        Tag("<list>"),
    ],
    by_kind(text_or_list, "a string or a list of parts of type input_text or output_text"),
]
_OF_ANSWERS = frozenset({"id", "status", "phase", "agent", "created_by"})


class MessageItem(Strict):
    """One turn of the conversation; an answer's message may be sent back as it came."""

    ignored: ClassVar[Set[str]] = _OF_ANSWERS

    type: Literal["message"] | None = Field(None, description="Need not be said.")
    role: str = Field(
        description="Who speaks: system, developer, user or assistant, as far as the model's template knows them."
    )
    content: ItemContent = Field(description="What is said: a string, or parts with text.")


class FunctionCallItem(Strict):
    """A call that an answer made."""

    ignored: ClassVar[Set[str]] = _OF_ANSWERS
    neutral: ClassVar[NeutralValues] = {"namespace": (), "caller": ({"type": "direct"},), "async": (False,)}

    type: Literal["function_call"] = Field(description="A call that an earlier answer made.")
    call_id: str = Field(description="What its result is called by.")
    name: str = Field(description="The function that was called.")
    arguments: str = Field(description="An object of JSON, as a string.")


class FunctionCallOutputItem(Strict):
    """What a call gave."""

    ignored: ClassVar[Set[str]] = _OF_ANSWERS
    neutral: ClassVar[NeutralValues] = {"namespace": (), "caller": ({"type": "direct"},), "name": ()}

    type: Literal["function_call_output"] = Field(description="What a call gave.")
    call_id: str = Field(description="The call.")
    output: ItemContent = Field(description="What it gave: a string, or parts with text.")


class ReasoningText(Strict):
    """A part of what an answer thought."""

    type: Literal["reasoning_text"] = Field(description="A text.")
    text: str = Field(description="What was thought.")


class ReasoningItem(Strict):
    """What an answer thought, sent back as it came. Nothing is encrypted here."""

    ignored: ClassVar[Set[str]] = _OF_ANSWERS | {"summary"}
    neutral: ClassVar[NeutralValues] = {"encrypted_content": ("",)}

    type: Literal["reasoning"] = Field(description="What an earlier answer thought.")
    content: Annotated[list[ReasoningText], Field(fail_fast=True, max_length=MAX_CHAT_MESSAGES)] | None = Field(
        None, description="The thoughts; what of them the model is told is up to its template."
    )


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
    Annotated[str, Tag("<text>")]
    | Annotated[list[InputItem], Field(fail_fast=True, max_length=MAX_CHAT_MESSAGES), Tag("<list>")],
    by_kind(text_or_list, "a string or a list of items"),
]


class FunctionTool(Strict):
    """A function that the caller runs."""

    ignored: ClassVar[Set[str]] = frozenset({"output_schema"})
    neutral: ClassVar[NeutralValues] = {
        "allowed_callers": (["direct"],),
        "async": (False,),
        "defer_loading": (False,),
    }

    type: Literal["function"] = Field(description="A function, which the caller runs.")
    name: str = Field(description="What it is called.")
    description: str | None = Field(None, description="What it does, for the model to know when to call it.")
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema of its arguments.")
    strict: bool | None = Field(None, description="As in chat completions.")


class NamedFunction(Strict):
    """The one function that is to be called."""

    type: Literal["function"] = Field(description="A function.")
    name: str = Field(description="The function that the answer must call.")


ToolChoiceField: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<text>")]
    | Annotated[
        Annotated[
            NamedFunction,
            _type_among(("function",), ": only functions that the caller runs can be called"),
        ],
        Tag("<object>"),
    ],
    by_kind(text_or_object, '"none", "auto", "required", or {"type": "function", "name": ...}'),
]


class TextFormat(Strict):
    """What the answer's text is kept to."""

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="Whether the answer is any text, any JSON object, or JSON of a schema."
    )
    name: str | None = Field(None, description="What the schema is called; changes nothing.")
    description: str | None = Field(None, description="What the schema is for; changes nothing.")
    strict: bool | None = Field(None, description="Changes nothing: the schema is always followed strictly.")
    json_schema: dict[str, Any] | None = Field(
        None, alias="schema", description="The JSON schema that the answer is kept to."
    )


class TextOptions(Strict):
    """How the answer's text is to be."""

    neutral: ClassVar[NeutralValues] = {"verbosity": ("medium",)}

    format: TextFormat | None = Field(None, description="What the text is kept to.")


class Reasoning(Strict):
    """How the model is to think; summaries are not made."""

    neutral: ClassVar[NeutralValues] = {"summary": ("auto",), "generate_summary": ("auto",), "context": ("auto",)}

    effort: str | None = Field(None, description="How much the model is to think, where its template knows of that.")


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
        **NEUTRAL_IN_CHAT,
        "access_programs": (),
        "background": (False,),
        "context_management": ([],),
        "max_tool_calls": (),
        "moderation": (),
        "truncation": ("disabled", "auto"),
    }

    input: InputField = Field(description="What to answer: a string, or a conversation as a list of items.")
    instructions: str | None = Field(None, description="A message of the role system before all others.")
    max_output_tokens: int | None = Field(
        None, description="Most tokens to generate, at least 1. Default: what the context holds."
    )
    tools: (
        list[
            Annotated[
                FunctionTool,
                _type_among(("function",), ": tools run where the caller is, none are built in"),
            ]
        ]
        | None
    ) = Field(None, description="Functions that the answer may call; whoever asks runs them.")
    tool_choice: ToolChoiceField | None = Field(
        None, description="Whether functions are called: none, auto, required, or one by its name."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Whether an answer may call several functions. Default true."
    )
    text: TextOptions | None = Field(None, description="How the text is to be.")
    reasoning: Reasoning | None = Field(None, description="How the model is to think.")
    include: list[Includable] | None = Field(
        None, description=f"{LOGPROBS} gives each token its log-probability; there is nothing of the others here."
    )
    top_logprobs: int | None = Field(
        None, description="With the log-probabilities, so many of the most probable tokens, at most 20."
    )
    metadata: dict[str, str] | None = Field(None, description="Labels that come back with the response, at most 16.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Variables for the model's chat template.")
    include_reasoning: bool | None = Field(
        None, description="Whether the answer has what the model thought. Default true."
    )

    previous_response_id: Annotated[None, _only(_STATELESS)] = Field(None, description=_REFUSED)
    conversation: Annotated[None, _only(_STATELESS)] = Field(None, description=_REFUSED)
    prompt: Annotated[None, _only("null: no prompts are kept here; send instructions and input")] = Field(
        None, description=_REFUSED
    )
    # Of chat completions, under another name here or without sense.
    n: Annotated[Literal[1] | None, _only("1 or null: a response is one answer", 1)] = Field(None, description=_REFUSED)
    max_tokens: Annotated[None, _only(_MAX_TOKENS)] = Field(None, description=_REFUSED)
    max_completion_tokens: Annotated[None, _only(_MAX_TOKENS)] = Field(None, description=_REFUSED)
    response_format: Annotated[None, _only("null: it is text.format here")] = Field(None, description=_REFUSED)
    return_token_ids: Annotated[Literal[False] | None, _only("false or null: they have no place here", False)] = Field(
        None, description=_REFUSED
    )
    prompt_logprobs: Annotated[None, _only("null: they have no place here; chat completions tell them")] = Field(
        None, description=_REFUSED
    )
    use_beam_search: Annotated[Literal[False] | None, _only(f"false or {_SEARCHES}", False)] = Field(
        None, description=_REFUSED
    )
    beam_width: Annotated[None, _only(_SEARCHES)] = Field(None, description=_REFUSED)
    length_penalty: Annotated[None, _only(_SEARCHES)] = Field(None, description=_REFUSED)
    early_stopping: Annotated[None, _only(_SEARCHES)] = Field(None, description=_REFUSED)
    patience: Annotated[None, _only(_SEARCHES)] = Field(None, description=_REFUSED)
