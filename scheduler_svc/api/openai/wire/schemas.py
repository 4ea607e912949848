"""What may be in a request's body: names and types of the fields.

Ranges are judged where gRPC's are, in validation.py.
"""

from collections.abc import Set
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    Field,
    Tag,
)

from scheduler_svc.api.beams import MAX_BEAM_WIDTH
from scheduler_svc.api.choices.plan import MAX_CHOICES
from scheduler_svc.api.openai.wire.service_tier import ServiceTier
from scheduler_svc.api.openai.wire.strict import Strict
from scheduler_svc.api.openai.wire.unsupported import (
    IGNORED_FIELDS,
    NEUTRAL_IN_CHAT,
    NEUTRAL_IN_COMPLETIONS,
    NEUTRAL_IN_MESSAGES,
    NEUTRAL_IN_STRUCTURES,
    NeutralValues,
)
from scheduler_svc.api.openai.wire.values import Texts, TokenIds, by_kind, text_or_list, text_or_object
from scheduler_svc.api.prompt import MAX_CHAT_MESSAGES
from scheduler_svc.api.sampling import MAX_ALLOWED_TOKENS
from scheduler_svc.api.tools import MAX_TOOLS


def _prompt_kind(given: object) -> str | None:
    if isinstance(given, list) and given and not isinstance(given[0], int):
        if isinstance(given[0], str):
            return "<texts>"
        return "<id lists>" if isinstance(given[0], list) else None
    return text_or_list(given)


def _yes_or_text(given: object) -> str | None:
    if isinstance(given, bool):
        return "<yes or no>"
    return "<text>" if given == "never" else None


PromptField: TypeAlias = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[TokenIds, Tag("<list>")]
    | Annotated[Texts, Field(max_length=MAX_CHOICES), Tag("<texts>")]
    | Annotated[list[TokenIds], Field(fail_fast=True, max_length=MAX_CHOICES), Tag("<id lists>")],
    by_kind(_prompt_kind, "a string, a list of token ids, or a list of either"),
]
StopField: TypeAlias = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Texts, Tag("<list>")],
    by_kind(text_or_list, "a string or a list of strings"),
]


EarlyStoppingField: TypeAlias = Annotated[
    Annotated[bool, Tag("<yes or no>")] | Annotated[Literal["never"], Tag("<text>")],
    by_kind(_yes_or_text, 'true, false or "never"'),
]


class StreamOptions(Strict):
    """What a stream tells besides the text."""

    ignored: ClassVar[Set[str]] = frozenset({"include_obfuscation"})

    include_usage: bool | None = Field(None, description="Ends the stream with a chunk that has the usage.")
    continuous_usage_stats: bool | None = Field(
        None, description="Gives every chunk the usage so far, as in vLLM; with include_usage only."
    )


class JsonSchemaFormat(Strict):
    """The schema of a response_format; what it is called and said to be changes nothing."""

    name: str | None = Field(None, description="What the schema is called; changes nothing.")
    description: str | None = Field(None, description="What the schema is for; changes nothing.")
    strict: bool | None = Field(None, description="Changes nothing: the schema is always followed strictly.")
    json_schema: dict[str, Any] = Field(alias="schema", description="The JSON schema that the answer is kept to.")


class ResponseFormat(Strict):
    """What the answer is kept to, in OpenAI's words."""

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="Whether the answer is any text, any JSON object, or JSON of a schema."
    )
    json_schema: JsonSchemaFormat | None = Field(None, description="The schema, for the type json_schema.")


SchemaField: TypeAlias = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[dict[str, Any], Tag("<object>")],
    by_kind(text_or_object, "a JSON schema, as an object or as a string"),
]


class StructuredOutputs(Strict):
    """What the answer is kept to, in vLLM's words."""

    neutral: ClassVar[NeutralValues] = NEUTRAL_IN_STRUCTURES

    json_: SchemaField | None = Field(None, alias="json")
    regex: str | None = None
    choice: Texts | None = None
    grammar: str | None = None
    json_object: bool | None = None


class GenerationFields(Strict):
    """What both APIs have; null is the same as nothing."""

    ignored: ClassVar[Set[str]] = IGNORED_FIELDS

    model: str | None = Field(
        None, description="One of the served model's names; absent: the model, whatever its name."
    )
    service_tier: ServiceTier | None = Field(
        None,
        description="Names the class: priority, default and auto are latency-sensitive, flex and batch are best-effort "
        "work. Comes back in the answer.",
    )
    priority: int | None = Field(
        None, description="As in vLLM: above 0 is best-effort work, unless service_tier names a class. Default 0."
    )
    stream: bool | None = Field(None, description="Sends the answer bit by bit, as server-sent events. Default false.")
    stream_options: StreamOptions | None = Field(None, description="What a stream tells besides the text.")
    n: int | None = Field(None, description=f"How many choices each prompt gets, in [1, {MAX_CHOICES}]. Default 1.")
    use_beam_search: bool | None = Field(
        None,
        description="Searches for the most probable texts instead of drawing them; n of them are "
        "returned. Default: false, or true with a beam_width.",
    )
    beam_width: int | None = Field(
        None,
        description=f"Texts that go on beside one another in a beam search, in [1, {MAX_BEAM_WIDTH}]. "
        "Default: best_of, else n.",
    )
    length_penalty: float | None = None
    early_stopping: EarlyStoppingField | None = None
    patience: float | None = None
    max_tokens: int | None = Field(
        None,
        description="Most tokens to generate, at least 1; or 0 with prompt_logprobs, and with echo in completions. "
        "Default: in completions 16, in chats what the context holds.",
    )
    max_completion_tokens: int | None = Field(None, description="Another name of max_tokens.")
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop: StopField | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = Field(
        None,
        description="False makes special tokens a part of the text; the one that ends it only with "
        "include_stop_str_in_output. Default true.",
    )
    truncate_prompt_tokens: int | None = None
    prompt_logprobs: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: TokenIds | None = Field(
        None,
        description=f"The only tokens that may be chosen: at least one, at most {MAX_ALLOWED_TOKENS}. "
        "null: all of them.",
    )
    bad_words: Texts | None = None
    response_format: ResponseFormat | None = Field(None, description="What the answer is kept to, in OpenAI's words.")
    structured_outputs: StructuredOutputs | None = Field(
        None,
        description="What the answer is kept to, in vLLM's words: one of json, regex, choice, grammar and json_object. "
        "The same is asked for by guided_json, guided_regex, guided_choice and guided_grammar.",
    )
    guided_json: SchemaField | None = None
    guided_regex: str | None = None
    guided_choice: Texts | None = None
    guided_grammar: str | None = None
    return_token_ids: bool | None = Field(
        None,
        description="Gives each choice its token ids, and tells those of the prompt as prompt_token_ids: in "
        "completions in each choice, in chats beside the choices; of a stream in the first chunk. Default false.",
    )
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    cache_salt: str | None = None
    session_id: str | None = None
    expects_tool_call: str | None = None
    last_turn: bool | None = None


class CompletionRequest(GenerationFields):
    """The body of POST /v1/completions."""

    neutral: ClassVar[NeutralValues] = NEUTRAL_IN_COMPLETIONS

    prompt: PromptField = Field(
        description=f"What to continue: a string, token ids, or a list of either, of at most {MAX_CHOICES}."
    )
    best_of: int | None = Field(
        None,
        description="Draws so many texts and returns the n that are most probable by the mean of "
        "their tokens, in [n, 128]; not in a stream. Default n.",
    )
    logprobs: int | None = Field(
        None, description="Gives each token its log-probability, and so many of the most probable ones, at most 20."
    )
    echo: bool | None = Field(
        None, description="Begins each text with its prompt; then max_tokens may be 0. Default false."
    )
    add_special_tokens: bool | None = Field(
        None,
        description="Whether the tokenizer's own special tokens, such as a beginning of sequence, "
        "are put around a prompt that is a text. Default true.",
    )


class TextPart(Strict):
    """A part of a message; others than text are not supported."""

    type: Literal["text"] = Field(description="What kind of part it is.")
    text: str = Field(description="The part's text; parts of a message are joined by line ends.")


class FunctionDefinition(Strict):
    """A function that the answer may call; its parameters are a JSON schema.

    Attributes:
        strict: Changes nothing: with tool_choice auto the model writes what it likes, else the schema is followed.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """Something that the answer may call; there are functions only.

    Attributes:
        type: What kind of tool it is.
        function: The function.
    """

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Strict):
    """Names a function."""

    name: str


class NamedTool(Strict):
    """The function that the answer must call.

    Attributes:
        type: What kind of tool it is.
        function: Names it.
    """

    type: Literal["function"]
    function: FunctionName


ToolChoiceField: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<text>")] | Annotated[NamedTool, Tag("<object>")],
    by_kind(text_or_object, '"none", "auto", "required", or {"type": "function", "function": {"name": ...}}'),
]


class CalledFunction(Strict):
    """What was called; the arguments are an object of JSON, as a text."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call in an assistant's message.

    Attributes:
        type: What kind of tool was called.
        function: What was called, and with what.
    """

    ignored: ClassVar[Set[str]] = frozenset({"index"})

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Strict):
    """One turn of the conversation.

    Attributes:
        content: Null only in an assistant's message that calls functions.
        name: Who speaks, among several of one role; whether the model is told is up to the template.
        tool_calls: The functions that an assistant's message calls.
        tool_call_id: The call whose result a tool's message is.
        reasoning_content: What an assistant thought before; whether the model is told is up to the template.
        reasoning: The same, in newer words.
    """

    neutral: ClassVar[NeutralValues] = NEUTRAL_IN_MESSAGES

    role: str
    content: (
        Annotated[
            Annotated[str, Tag("<text>")]
            | Annotated[list[TextPart], Field(fail_fast=True, max_length=MAX_CHAT_MESSAGES), Tag("<list>")],
            by_kind(text_or_list, "a text or a list of parts of type text"),
        ]
        | None
    ) = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class ChatCompletionRequest(GenerationFields):
    """The body of POST /v1/chat/completions."""

    neutral: ClassVar[NeutralValues] = NEUTRAL_IN_CHAT

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, max_length=MAX_CHAT_MESSAGES)] = Field(
        description="The conversation so far, oldest turn first; the model's own chat template writes it as a prompt."
    )
    logprobs: bool | None = Field(None, description="Gives each token its log-probability. Default false.")
    top_logprobs: int | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = Field(
        None, description="Functions that the answer may call; whoever asks runs them."
    )
    tool_choice: ToolChoiceField | None = Field(
        None,
        description="Whether functions are called: none, auto, required, or one by its name. "
        "Default: auto with tools, else none.",
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Whether an answer may call several functions. Default true."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables for the model's chat template, such as enable_thinking."
    )
    reasoning_effort: str | None = Field(
        None, description="How much the model is to think; refused where its chat template does not know of that."
    )
    include_reasoning: bool | None = Field(
        None, description="Whether the answer has what the model thought, as reasoning_content. Default true."
    )
    add_generation_prompt: bool | None = Field(
        None, description="Whether the prompt ends with the beginning of an answer. Default true."
    )
    continue_final_message: bool | None = Field(
        None, description="Whether the answer goes on with the last message instead of following it. Default false."
    )


class TokenizeRequest(Strict):
    """The body of POST /tokenize: a text, or a conversation."""

    model: str | None = Field(None, description="One of the served model's names.")
    prompt: str | None = Field(None, description="The text; absent: messages are given.")
    messages: Annotated[list[ChatMessage], Field(fail_fast=True, max_length=MAX_CHAT_MESSAGES)] | None = Field(
        None, description="A conversation, which the model's chat template writes; absent: a prompt is given."
    )
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = Field(
        None, description="Functions that an answer to the conversation might call, as the model is told of them."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables for the model's chat template, such as enable_thinking."
    )
    add_generation_prompt: bool | None = Field(
        None, description="Whether a conversation ends with the beginning of an answer. Default true."
    )
    continue_final_message: bool | None = Field(
        None, description="Whether an answer would go on with the last message. Default false."
    )
    add_special_tokens: bool | None = Field(
        None,
        description="Whether the tokenizer's own special tokens are put around a prompt. Default true; false with "
        "messages, where the chat template writes them.",
    )
    return_token_strs: bool | None = Field(None, description="Tells how the vocabulary writes each token, too.")


class DetokenizeRequest(Strict):
    """The body of POST /detokenize."""

    model: str | None = Field(None, description="One of the served model's names.")
    tokens: TokenIds = Field(description="The token ids.")


class BatchRequest(Strict):
    """The body of POST /v1/batches."""

    neutral: ClassVar[NeutralValues] = {"output_expires_after": ()}

    input_file_id: str = Field(
        description="The id of a file with a request on each line, uploaded for the purpose batch."
    )
    endpoint: Literal["/v1/completions", "/v1/chat/completions", "/v1/responses"] = Field(
        description="Where its requests belong."
    )
    completion_window: str = Field(
        description="After so many hours what has not ended expires, such as 24h; at most 720h."
    )
    metadata: dict[str, str] | None = Field(None, description="The caller's own words, at most 16 pairs.")
