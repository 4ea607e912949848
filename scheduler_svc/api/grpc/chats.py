"""Turns a ChatPrompt into a prompt's draft, and calls into messages.

Judges only what is the wire's own: JSON in texts, numbers of choices.
"""

from typing import Any

from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.draft import ChatPrompt, TemplateDraft, ToolChoice, ToolDraft, ToolsDraft
from scheduler_svc.api.parts import CallDelta
from scheduler_svc.api.tools import json_object
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.text.chat_template import ChatTurn

_CHOICES = {
    pb.TOOL_CHOICE_UNSPECIFIED: ToolChoice.AUTO,
    pb.TOOL_CHOICE_AUTO: ToolChoice.AUTO,
    pb.TOOL_CHOICE_NONE: ToolChoice.NONE,
    pb.TOOL_CHOICE_REQUIRED: ToolChoice.REQUIRED,
}


def chat_of(given: pb.ChatPrompt) -> ChatPrompt:
    """Returns the conversation; raises InvalidRequest for JSON that is none, and for an unknown choice."""
    return ChatPrompt(
        turns=[_turn(f"chat.messages[{index}]", message) for index, message in enumerate(given.messages)],
        tools=_tools(given),
        template=TemplateDraft(
            variables=json_object("chat.template_variables", given.template_variables),
            reasoning_effort=given.reasoning_effort or None,
            begins_answer=given.add_generation_prompt if given.HasField("add_generation_prompt") else True,
            continues=given.continue_final_message,
        ),
    )


def call_message(call: CallDelta) -> pb.ToolCall:
    """Returns a call in an answer as it goes over the wire."""
    return pb.ToolCall(id=call.call_id, name=call.name, arguments=call.arguments)


def _turn(field: str, message: pb.ChatMessage) -> ChatTurn:
    more: dict[str, Any] = {}
    if message.name:
        more["name"] = message.name
    if message.tool_calls:
        more["tool_calls"] = [
            _call(f"{field}.tool_calls[{index}]", call) for index, call in enumerate(message.tool_calls)
        ]
    if message.tool_call_id:
        more["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        more["reasoning_content"] = message.reasoning
    return ChatTurn(message.role, message.content, more=more)


def _call(field: str, call: pb.ToolCall) -> dict[str, Any]:
    """Returns a call as templates know it."""
    arguments = json_object(f"{field}.arguments", call.arguments)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tools(given: pb.ChatPrompt) -> ToolsDraft | None:
    choice = _choice(given)
    if not given.tools and choice is ToolChoice.AUTO:
        return None
    tools = [
        ToolDraft(
            name=tool.name,
            description=tool.description or None,
            parameters=json_object(f"chat.tools[{index}].parameters", tool.parameters) if tool.parameters else None,
            strict=tool.strict if tool.HasField("strict") else None,
        )
        for index, tool in enumerate(given.tools)
    ]
    return ToolsDraft(tools, choice, given.required_tool, parallel=not given.single_call)


def _choice(given: pb.ChatPrompt) -> ToolChoice:
    choice = _CHOICES.get(given.tool_choice)
    if choice is None:
        names = ", ".join(f"{number} ({pb.ToolChoice.Name(number)})" for number in _CHOICES)
        raise InvalidRequest("chat.tool_choice", given.tool_choice, names)
    if not given.required_tool:
        return choice
    if choice is ToolChoice.NONE:
        raise InvalidRequest("chat.required_tool", given.required_tool, "nothing where no function may be called")
    return ToolChoice.NAMED
