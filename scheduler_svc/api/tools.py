"""Decides which functions an answer may call and must call, and what of a conversation its template is given.

Each refusal is an InvalidRequest that names the field as GenerateRequest does, what was given and what is allowed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler_svc.api.draft import TemplateDraft, ToolChoice, ToolDraft, ToolsDraft
from scheduler_svc.api.json_text import read_json
from scheduler_svc.errors import Amount, InvalidRequest
from scheduler_svc.text.chat_template import Setting
from scheduler_svc.text.formats.pieces import Function
from scheduler_svc.text.formats.table import Formats

MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 65_536
MAX_DEPTH = 64
MAX_VARIABLES, MAX_VARIABLES_BYTES = 64, 16_384
NAME_WORDS = "1 to 64 letters, digits, _ and -"
_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
_VARIABLE = re.compile("[a-zA-Z_][a-zA-Z0-9_]{0,63}")
_OWN_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"})


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Which functions an answer may call.

    Attributes:
        shown: What the template is given.
        functions: Those that may be called; none where calls are not looked for.
        must_call: Whether there has to be a call.
        most_calls: How many there may be; None: any number.
    """

    shown: Sequence[Mapping[str, Any]] = ()
    functions: Sequence[Function] = ()
    must_call: bool = False
    most_calls: int | None = None


NO_TOOLS = ToolUse()


def valid_tools(given: ToolsDraft | None, formats: Formats) -> ToolUse:
    """Returns which functions an answer may call."""
    if given is None or not given.tools:
        if given is not None and given.choice in (ToolChoice.REQUIRED, ToolChoice.NAMED):
            raise InvalidRequest("chat.tool_choice", given.named or given.choice.value, "none or auto without tools")
        return NO_TOOLS
    if len(given.tools) > MAX_TOOLS:
        raise InvalidRequest("chat.tools", Amount(len(given.tools), "tools"), f"at most {MAX_TOOLS} tools")
    functions = [_valid_function(f"chat.tools[{index}]", tool) for index, tool in enumerate(given.tools)]
    names = [one.name for one in functions]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest("chat.tools", twice, "functions with names of their own")
    shown = [_shown(tool) for tool in given.tools]
    if given.choice is ToolChoice.NONE:
        return ToolUse(shown)
    if given.choice is ToolChoice.NAMED:
        functions = [one for one in functions if one.name == given.named]
        if not functions:
            allowed = f"a function of tools: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
            raise InvalidRequest("chat.tool_choice", given.named, allowed)
    if given.choice is ToolChoice.AUTO and formats.calls is None:
        allowed = "none, or with tool_choice required or a function: it is not known how the model writes calls by "
        raise InvalidRequest("chat.tools", Amount(len(names), "tools"), allowed + "itself (--tool-parser says it)")
    is_single = given.choice is ToolChoice.NAMED or not given.parallel
    return ToolUse(shown, functions, given.choice is not ToolChoice.AUTO, 1 if is_single else None)


def setting_of(use: ToolUse, template: TemplateDraft, source: str) -> Setting:
    """Returns what the template, whose source it is, is given besides the turns."""
    field = "chat.template_variables"
    for name in template.variables:
        if not _VARIABLE.fullmatch(name) or name in _OWN_VARIABLES:
            raise InvalidRequest(field, name, f"names of variables other than {', '.join(sorted(_OWN_VARIABLES))}")
    if len(template.variables) > MAX_VARIABLES:
        raise InvalidRequest(field, Amount(len(template.variables), "names"), f"at most {MAX_VARIABLES}")
    require_size(field, template.variables, MAX_VARIABLES_BYTES)
    variables = dict(template.variables)
    if template.reasoning_effort is not None:
        if "reasoning_effort" not in source:
            allowed = "nothing: the model's chat template knows no reasoning effort"
            raise InvalidRequest("chat.reasoning_effort", template.reasoning_effort, allowed)
        variables["reasoning_effort"] = template.reasoning_effort
    if template.continues and template.begins_answer:
        raise InvalidRequest("chat.continue_final_message", True, "false unless add_generation_prompt is false")
    return Setting(
        tools=use.shown,
        variables=variables,
        begins_answer=template.begins_answer,
        continues=template.continues,
        needs_tools=bool(use.functions),
    )


def require_size(field: str, value: object, max_bytes: int) -> int:
    """Returns the size of plain data as JSON; refuses what is too large, or too deep to be worked on."""
    if not _is_flat(value):
        raise InvalidRequest(field, Amount(MAX_DEPTH + 1, "levels and more"), f"at most {MAX_DEPTH} levels")
    num_bytes = len(json.dumps(value, ensure_ascii=False).encode())
    if num_bytes > max_bytes:
        raise InvalidRequest(field, Amount(num_bytes, "bytes"), f"at most {max_bytes} bytes of JSON")
    return num_bytes


def json_object(field: str, text: str) -> dict[str, Any]:
    """Returns the object of a JSON text; nothing is an object without fields."""
    if not text.strip():
        return {}
    try:
        value = read_json(text, field)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        shown = text if len(text) <= MAX_DEPTH else Amount(len(text), "characters")
        raise InvalidRequest(field, shown, "an object of JSON, as a text")
    return value


def _valid_function(field: str, tool: ToolDraft) -> Function:
    if not _NAME.fullmatch(tool.name):
        raise InvalidRequest(field, tool.name, f"a function whose name is of {NAME_WORDS}")
    schema = tool.parameters or {}
    require_size(field, [tool.description, schema], MAX_SCHEMA_BYTES)
    kind = schema.get("type", "object")
    if kind != "object":
        raise InvalidRequest(field, kind, "a function whose parameters are a schema of type object")
    if not isinstance(schema.get("properties", {}), dict) or not isinstance(schema.get("required", []), list):
        allowed = "a function whose parameters have an object of properties, and a list of those that are required"
        raise InvalidRequest(field, tool.name, allowed)
    return Function(tool.name, schema)


def _shown(tool: ToolDraft) -> dict[str, Any]:
    """Returns a tool as OpenAI's API has it, and as templates know it."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _is_flat(value: object) -> bool:
    """Returns whether plain data has no more levels than may be."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for one in level for part in _parts(one)]
        if not level:
            return True
    return False


def _parts(value: object) -> Sequence[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else ()
