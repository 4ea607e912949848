"""Turns the items of a request into the messages of a chat, and remembers which item each message came of."""

from collections.abc import Sequence

from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.api.openai.responses.schema import (
    FunctionCallItem,
    FunctionCallOutputItem,
    ItemPart,
    MessageItem,
    ReasoningItem,
    ResponsesRequest,
)
from scheduler_svc.api.prompt import MAX_CHAT_MESSAGES
from scheduler_svc.api.tools import MAX_TOOLS
from scheduler_svc.errors import Amount, InvalidRequest, Words

_JOINT = "\n"


class Conversation:
    """The messages of a chat, oldest first.

    A chat has all that one turn of the assistant thought in one text. So thoughts go to the message that follows them,
    or, where calls or none of the assistant's words follow, to the one that they stand behind.

    Attributes:
        messages: As chat completions take them.
        names: What the caller calls each place in them.
    """

    def __init__(self, body: ResponsesRequest) -> None:
        self.messages: list[JsonObject] = []
        self.names: dict[str, str] = {}
        self._thoughts: list[str] = []
        if body.instructions is not None:
            self._say("instructions", "instructions", {"role": "system", "content": body.instructions})
        if isinstance(body.input, str):
            self._say("input", "input", {"role": "user", "content": body.input})
            return
        for index, item in enumerate(body.input):
            self._take(f"input[{index}]", item)
        if self._thoughts:
            self._keep_thoughts(f"input[{len(body.input) - 1}]")
        if not self.messages:
            raise InvalidRequest("input", Amount(0, "items"), f"1 to {MAX_CHAT_MESSAGES} items")

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
                thought = "".join(part.text for part in item.content or ())
                self._thoughts += [thought] if thought else []

    def _say(self, name: str, content_name: str, message: JsonObject) -> None:
        if self._thoughts and message["role"] != "assistant":
            self._keep_thoughts(name)
        place = f"messages[{len(self.messages)}]"
        self.names |= {f"{place}.content": content_name, f"{place}.tool_call_id": f"{name}.call_id", place: name}
        self.messages.append(message)
        self._add_thoughts(message)

    def _call(self, name: str, item: FunctionCallItem) -> None:
        """A chat has the calls of one turn in one message, with what was said beside them."""
        if not self._is_assistants_turn:
            self._say(name, name, {"role": "assistant", "content": None})
        message = self.messages[-1]
        self._add_thoughts(message)
        calls = message.setdefault("tool_calls", [])
        assert isinstance(calls, list)
        if len(calls) == MAX_TOOLS:
            raise InvalidRequest(name, Words("one more call"), f"at most {MAX_TOOLS} calls in one turn")
        place = f"messages[{len(self.messages) - 1}].tool_calls[{len(calls)}]"
        self.names |= {f"{place}.function": name, f"{place}.id": f"{name}.call_id", place: name}
        function = {"name": item.name, "arguments": item.arguments}
        calls.append({"id": item.call_id, "type": "function", "function": function})

    @property
    def _is_assistants_turn(self) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"

    def _keep_thoughts(self, name: str) -> None:
        """Gives thoughts that nothing of the assistant's follows to its turn before, or to one of their own."""
        if self._is_assistants_turn:
            self._add_thoughts(self.messages[-1])
        else:
            self._say(name, name, {"role": "assistant", "content": ""})

    def _add_thoughts(self, message: JsonObject) -> None:
        if self._thoughts and message["role"] == "assistant":
            before = message.get("reasoning_content")
            message["reasoning_content"] = _JOINT.join(
                [*([before] if isinstance(before, str) else []), *self._thoughts]
            )
            self._thoughts = []


def _text(content: str | Sequence[ItemPart]) -> str | list[JsonObject]:
    """Returns a content as chats have it."""
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": part.text if part.text is not None else part.refusal or ""} for part in content]
