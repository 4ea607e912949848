"""Functions that an answer may call, and the calls in it, as Python values and as messages of `qllm.v1`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from qllm.client.openai_shapes import call_fields, named_function, tool_fields
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
        strict: Whether calls should keep to the schema; the template is told, if it is given.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, object] | str | None = None
    strict: bool | None = None


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
    """Translates functions; raises ValueError for a mapping that is none."""
    given = (one if isinstance(one, Tool) else Tool(**tool_fields(one, f"tools[{i}]")) for i, one in enumerate(tools))
    return [
        pb.Tool(name=one.name, description=one.description, parameters=_as_json(one.parameters), strict=one.strict)
        for one in given
    ]


def encode_choice(choice: ToolChoice | str | Mapping[str, Any] | None, required: str | None) -> pb.ChatPrompt:
    """Translates whether functions are called, and which one; raises ValueError for what is no such choice."""
    if isinstance(choice, Mapping):
        return pb.ChatPrompt(required_tool=named_function(choice))
    if choice is not None and choice not in {*ToolChoice}:
        allowed = ", ".join(repr(one.value) for one in ToolChoice)
        raise ValueError(f"tool_choice is {choice!r}; allowed are {allowed}, or required_tool for one function")
    number = pb.TOOL_CHOICE_UNSPECIFIED if choice is None else _CHOICES[ToolChoice(choice)]
    return pb.ChatPrompt(tool_choice=number, required_tool=required or "")


def encode_calls(calls: Iterable[ToolCall | Mapping[str, Any]], place: str) -> list[pb.ToolCall]:
    """Translates the calls of a turn; raises ValueError for a mapping that is none."""
    given = (
        one if isinstance(one, ToolCall) else ToolCall(**call_fields(one, f"{place}[{i}]"))
        for i, one in enumerate(calls)
    )
    return [pb.ToolCall(id=call.call_id, name=call.name, arguments=call.arguments) for call in given]


def decode_calls(message: pb.GenerateResponse | pb.Hypothesis) -> tuple[ToolCall, ...]:
    """Translates the calls in a message of a stream, or in a text that a beam search found."""
    return tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls)


def encode_variables(variables: Mapping[str, object] | None) -> str:
    """Translates what the chat template is given besides."""
    return _as_json(variables or None)


def _as_json(given: Mapping[str, object] | Sequence[object] | str | None) -> str:
    if given is None:
        return ""
    return given if isinstance(given, str) else json.dumps(given)
