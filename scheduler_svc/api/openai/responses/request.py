"""Translates a request for a response to one of chat completions, whose words it translates back in errors."""

from collections.abc import Mapping

from pydantic import ValidationError

from scheduler_svc.api.openai.chat import chat_question
from scheduler_svc.api.openai.question import JsonObject, Question
from scheduler_svc.api.openai.responses.conversation import Conversation
from scheduler_svc.api.openai.responses.schema import LOGPROBS, FunctionTool, ResponsesRequest, TextFormat
from scheduler_svc.api.openai.wire.errors import invalid_object
from scheduler_svc.api.openai.wire.field_names import FieldNames
from scheduler_svc.api.openai.wire.schemas import ChatCompletionRequest
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.jobs.limits import require_metadata

# What is the same in both, in name and in sense.
PASSED = frozenset(
    {
        "model",
        "service_tier",
        "priority",
        "stream",
        "min_tokens",
        "ignore_eos",
        "stop",
        "stop_token_ids",
        "include_stop_str_in_output",
        "truncate_prompt_tokens",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "seed",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "allowed_token_ids",
        "bad_words",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "ttft_ms",
        "tpot_ms",
        "cache_salt",
        "session_id",
        "expects_tool_call",
        "last_turn",
        "chat_template_kwargs",
    }
)
_NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "top_logprobs": "top_logprobs",
    "messages": "input",
}


def response_question(body: ResponsesRequest) -> tuple[Question, FieldNames]:
    """Returns what the body asks for, and what its fields are called; raises ServiceError for what can't be asked."""
    asked, names = chat_body(body)
    with names.told():
        return chat_question(_read(asked)), names


def _read(asked: JsonObject) -> ChatCompletionRequest:
    try:
        return ChatCompletionRequest.model_validate(asked)
    except ValidationError as error:
        raise invalid_object(error) from error


def chat_body(body: ResponsesRequest) -> tuple[JsonObject, FieldNames]:
    """Returns the body of a chat completion that asks for the same, and what the caller calls its fields."""
    _require_plain_stream(body)
    require_metadata("metadata", body.metadata or {})
    conversation = Conversation(body)
    passed = body.model_dump(include=set(PASSED), exclude_unset=True, by_alias=True)
    names = FieldNames({**conversation.names, **_tool_names(body), **_NAMES})
    return {**passed, **_own(body), "messages": conversation.messages}, names


def _require_plain_stream(body: ResponsesRequest) -> None:
    options = body.stream_options
    if options is not None and options.continuous_usage_stats:
        allowed = "false or null: the usage comes with the last event"
        raise InvalidRequest("stream_options.continuous_usage_stats", True, allowed)


def _own(body: ResponsesRequest) -> Mapping[str, object]:
    """Returns the fields that chat completions have in another form, those that are given alone."""
    logprobs = LOGPROBS in (body.include or ())
    if body.top_logprobs and not logprobs:
        raise InvalidRequest("top_logprobs", body.top_logprobs, f'0 or null unless include has "{LOGPROBS}"')
    own: JsonObject = {
        "max_completion_tokens": body.max_output_tokens,
        "logprobs": logprobs or None,
        "top_logprobs": body.top_logprobs,
        "response_format": _response_format(body.text.format if body.text else None),
        "reasoning_effort": body.reasoning.effort if body.reasoning else None,
        "tools": [_tool(tool) for tool in body.tools or ()] or None,
        "tool_choice": _tool_choice(body),
        "parallel_tool_calls": body.parallel_tool_calls,
        "stream_options": {"include_usage": True} if body.stream else None,
    }
    return {name: value for name, value in own.items() if value is not None}


def _response_format(given: TextFormat | None) -> JsonObject | None:
    if given is None:
        return None
    if given.type != "json_schema":
        return {"type": given.type}
    if given.json_schema is None:
        raise InvalidRequest("text.format.schema", None, "a JSON schema, as an object")
    return {"type": "json_schema", "json_schema": given.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)}


def _tool(given: FunctionTool) -> JsonObject:
    function = given.model_dump(exclude={"type"}, exclude_none=True)
    return {"type": "function", "function": function}


def _tool_choice(body: ResponsesRequest) -> object:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        return choice
    return {"type": "function", "function": {"name": choice.name}}


def _tool_names(body: ResponsesRequest) -> Mapping[str, str]:
    names = {f"tools[{index}].function": f"tools[{index}]" for index in range(len(body.tools or ()))}
    return {**names, "tool_choice.function": "tool_choice"}
