"""Turns the items of a request into the messages of a chat, and remembers which item each message came of."""

from collections.abc import Sequence

from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.api.openai.responses.schema import (
    FunctionCallItem,
    FunctionCallOutputItem,
    MessageItem,
    ReasoningItem,
    ResponsesRequest,
    TextPart,
)

_JOINT = "\n"


class Conversation:
    """The messages of a chat, oldest first.

    Attributes:
        messages: As chat completions take them.
        names: What the caller calls each place in them.
    """

    def __init__(self, body: ResponsesRequest) -> None:
        self.messages: list[JsonObject] = []
        self.names: dict[str, str] = {}
        self._thought = ""
        if body.instructions is not None:
            self._say("instructions", "instructions", {"role": "system", "content": body.instructions})
        if isinstance(body.input, str):
            self._say("input", "input", {"role": "user", "content": body.input})
            return
        for index, item in enumerate(body.input):
            self._take(f"input[{index}]", item)

    def _take(self, name: str, item: MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem) -> None:
        match item:
            case MessageItem():
                self._say(name, f"{name}.content", {"role": item.role, "content": _text(item.content)})
            case FunctionCallItem():
                self._call(name, item)
            case FunctionCallOutputItem():
                said: JsonObject = {"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)}
                self._say(name, f"{name}.output", said)
            case ReasoningItem():
                self._thought += "".join(part.text for part in item.content or ())

    def _say(self, name: str, content_name: str, message: JsonObject) -> None:
        place = f"messages[{len(self.messages)}]"
        self.names |= {f"{place}.content": content_name, f"{place}.tool_call_id": f"{name}.call_id", place: name}
        if message["role"] == "assistant" and self._thought:
            message["reasoning_content"], self._thought = self._thought, ""
        self.messages.append(message)

    def _call(self, name: str, item: FunctionCallItem) -> None:
        """A chat has the calls of one turn in one message, with what was said beside them."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self._say(name, name, {"role": "assistant", "content": None})
        calls = self.messages[-1].setdefault("tool_calls", [])
        assert isinstance(calls, list)
        place = f"messages[{len(self.messages) - 1}].tool_calls[{len(calls)}]"
        # Before the message's own place, whose name is the beginning of this one.
        self.names = {f"{place}.function": name, f"{place}.id": f"{name}.call_id", place: name, **self.names}
        function = {"name": item.name, "arguments": item.arguments}
        calls.append({"id": item.call_id, "type": "function", "function": function})


def _text(content: str | Sequence[TextPart]) -> str | list[JsonObject]:
    """Returns a content as chats have it."""
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": part.text if part.text is not None else part.refusal or ""} for part in content]
