"""Translates the messages and tools of a chat to a prompt's draft."""

from collections.abc import Sequence
from typing import Any

from scheduler_svc.api.draft import ChatPrompt, TemplateDraft, ToolChoice, ToolDraft, ToolsDraft
from scheduler_svc.api.openai.wire.schemas import ChatCompletionRequest, ChatMessage, NamedTool, Tool, ToolCall
from scheduler_svc.api.tools import json_object
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.text.chat_template import ChatTurn

_PARTS_SEPARATOR = "\n"


def prompt_of(body: ChatCompletionRequest) -> ChatPrompt:
    """Returns the conversation that a request asks to go on with."""
    return ChatPrompt(turns_of(body.messages), _tools_of(body), _template_of(body))


def turns_of(messages: Sequence[ChatMessage]) -> list[ChatTurn]:
    """Returns messages as templates take them."""
    return [_turn_of(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _turn_of(field: str, message: ChatMessage) -> ChatTurn:
    """Returns a message as templates take it; its parts are joined by lines."""
    content = message.content
    if content is None:
        if not message.tool_calls:
            allowed = "a text or a list of parts of type text; null only in a message with tool_calls"
            raise InvalidRequest(f"{field}.content", None, allowed)
        content = ""
    text = content if isinstance(content, str) else _PARTS_SEPARATOR.join(part.text for part in content)
    more: dict[str, Any] = {}
    if message.name is not None:
        more["name"] = message.name
    if message.tool_calls:
        more["tool_calls"] = [
            _call_of(f"{field}.tool_calls[{index}]", call) for index, call in enumerate(message.tool_calls)
        ]
    if message.tool_call_id is not None:
        more["tool_call_id"] = message.tool_call_id
    reasoning = message.reasoning if message.reasoning_content is None else message.reasoning_content
    if reasoning is not None:
        more["reasoning_content"] = reasoning
    return ChatTurn(message.role, text, more=more)


def _call_of(field: str, call: ToolCall) -> dict[str, Any]:
    """Returns a call as templates know it: its arguments are an object, not a text."""
    arguments = json_object(f"{field}.function.arguments", call.function.arguments)
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def _tools_of(body: ChatCompletionRequest) -> ToolsDraft | None:
    given = body.tool_choice
    if body.tools is None and given is None:
        return None
    return ToolsDraft(
        tools=tools_of(body.tools or ()),
        choice=ToolChoice.NAMED if isinstance(given, NamedTool) else ToolChoice(given or ToolChoice.AUTO),
        named=given.function.name if isinstance(given, NamedTool) else "",
        parallel=body.parallel_tool_calls is not False,
    )


def tools_of(tools: Sequence[Tool]) -> list[ToolDraft]:
    """Returns functions as a draft has them."""
    return [
        ToolDraft(one.function.name, one.function.description, one.function.parameters, one.function.strict)
        for one in tools
    ]


def _template_of(body: ChatCompletionRequest) -> TemplateDraft:
    return TemplateDraft(
        variables=body.chat_template_kwargs or {},
        reasoning_effort=body.reasoning_effort,
        begins_answer=body.add_generation_prompt is not False,
        continues=bool(body.continue_final_message),
    )
