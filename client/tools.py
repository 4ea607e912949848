"""Functions that an answer may call, and the calls in it, as Python values and as messages of `qllm.v1`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from qllm.v1 import inference_pb2 as pb


class ToolChoice(StrEnum):
    """Whether an answer calls functions."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the answer may call.

    Attributes:
        name: 1 to 64 letters, digits, _ and -.
        description: What it does, for the model.
        parameters: JSON schema of its arguments, an object or JSON; None: it has none.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, object] | str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function.

    Attributes:
        call_id: Given back, as `tool_call_id`, by the turn that has the result.
        name: The function.
        arguments: An object of JSON.
    """

    call_id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, object]:
        """Returns the arguments as Python values."""
        arguments: dict[str, object] = json.loads(self.arguments)
        return arguments


_CHOICES = {
    ToolChoice.AUTO: pb.TOOL_CHOICE_AUTO,
    ToolChoice.NONE: pb.TOOL_CHOICE_NONE,
    ToolChoice.REQUIRED: pb.TOOL_CHOICE_REQUIRED,
}


def encode_tools(tools: Iterable[Tool | Mapping[str, Any]]) -> list[pb.Tool]:
    """Translates functions."""
    each = [tool if isinstance(tool, Tool) else Tool(**tool) for tool in tools]
    return [pb.Tool(name=one.name, description=one.description, parameters=_as_json(one.parameters)) for one in each]


def encode_choice(choice: ToolChoice | str | None) -> pb.ToolChoice.ValueType:
    """Translates whether functions are called; raises ValueError for what is no such choice."""
    return pb.TOOL_CHOICE_UNSPECIFIED if choice is None else _CHOICES[ToolChoice(choice)]


def encode_calls(calls: Iterable[ToolCall | Mapping[str, Any]]) -> list[pb.ToolCall]:
    """Translates the calls of a turn."""
    each = [call if isinstance(call, ToolCall) else ToolCall(**call) for call in calls]
    return [pb.ToolCall(id=call.call_id, name=call.name, arguments=call.arguments) for call in each]


def decode_calls(message: pb.GenerateResponse) -> tuple[ToolCall, ...]:
    """Translates the calls in a message of a stream."""
    return tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls)


def encode_variables(variables: Mapping[str, object] | None) -> str:
    """Translates what the chat template is given besides."""
    return _as_json(variables or None)


def _as_json(given: Mapping[str, object] | Sequence[object] | str | None) -> str:
    if given is None:
        return ""
    return given if isinstance(given, str) else json.dumps(given)
