"""The items of a response's output, each of which tells what becomes of it as events while it is written.

    output_item.added ──▶ [content_part.added] ──▶ deltas ──▶ done ──▶ [content_part.done] ──▶ output_item.done

Events are without their numbers, which the stream gives them. Source: OpenAI's API reference, streaming events.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol, TypeAlias

from scheduler_svc.api.openai.question import JsonObject

Event: TypeAlias = JsonObject
_IN_PROGRESS = "in_progress"


class Item(Protocol):
    """One item."""

    def begun(self) -> Iterator[Event]:
        """Yields what is told when it begins."""

    def ended(self, status: str) -> Iterator[Event]:
        """Yields what is told when it is over."""

    def shown(self, status: str) -> JsonObject:
        """Returns the item as it stands."""


class TextItem(ABC):
    """An item with one text.

    Args:
        response_id: Of the response.
        index: Its place in the output.
    """

    prefix: ClassVar[str]
    event: ClassVar[str]

    def __init__(self, response_id: str, index: int) -> None:
        self._place: JsonObject = {"item_id": item_id(self.prefix, response_id, index), "output_index": index}
        self._text: list[str] = []

    @abstractmethod
    def _part(self) -> JsonObject:
        """Returns the part that has the text."""

    @abstractmethod
    def _item(self, content: Sequence[JsonObject], status: str) -> JsonObject:
        """Returns the item with these parts."""

    def _beside_text(self) -> JsonObject:
        return {}

    @property
    def text(self) -> str:
        """What is written so far."""
        return "".join(self._text)

    def shown(self, status: str) -> JsonObject:
        """Returns the item as it stands."""
        return self._item([self._part()], status)

    def begun(self) -> Iterator[Event]:
        """Yields what is told when it begins."""
        index = self._place["output_index"]
        yield {"type": "response.output_item.added", "output_index": index, "item": self._item([], _IN_PROGRESS)}
        yield {"type": "response.content_part.added", **self._place, "content_index": 0, "part": self._part()}

    def _delta(self, text: str, beside: JsonObject) -> Event:
        self._text.append(text)
        return {"type": f"{self.event}.delta", **self._place, "content_index": 0, "delta": text, **beside}

    def ended(self, status: str) -> Iterator[Event]:
        """Yields what is told when it is over."""
        place = {**self._place, "content_index": 0}
        yield {"type": f"{self.event}.done", **place, "text": self.text, **self._beside_text()}
        yield {"type": "response.content_part.done", **place, "part": self._part()}
        index = self._place["output_index"]
        yield {"type": "response.output_item.done", "output_index": index, "item": self.shown(status)}


class Message(TextItem):
    """What the model says."""

    prefix, event = "msg", "response.output_text"

    def __init__(self, response_id: str, index: int) -> None:
        super().__init__(response_id, index)
        self._logprobs: list[JsonObject] = []

    def more(self, text: str, logprobs: Sequence[JsonObject]) -> Event:
        """Takes in what is new, and returns what is told of it."""
        self._logprobs += logprobs
        return self._delta(text, {"logprobs": logprobs})

    def _part(self) -> JsonObject:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self._logprobs}

    def _item(self, content: Sequence[JsonObject], status: str) -> JsonObject:
        item_id = self._place["item_id"]
        return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _beside_text(self) -> JsonObject:
        return {"logprobs": self._logprobs}


class Thoughts(TextItem):
    """What the model thinks before it speaks."""

    prefix, event = "rs", "response.reasoning_text"

    def more(self, text: str) -> Event:
        """Takes in what is new, and returns what is told of it."""
        return self._delta(text, {})

    def _part(self) -> JsonObject:
        return {"type": "reasoning_text", "text": self.text}

    def _item(self, content: Sequence[JsonObject], status: str) -> JsonObject:
        item_id = self._place["item_id"]
        return {"id": item_id, "type": "reasoning", "summary": [], "content": content, "status": status}


class FunctionCall:
    """A function that the caller is to run.

    Args:
        response_id: Of the response.
        index: Its place in the output.
        call_id: What its result will be called by.
        name: Of the function.
    """

    def __init__(self, response_id: str, index: int, call_id: str, name: str) -> None:
        self._place: JsonObject = {"item_id": item_id("fc", response_id, index), "output_index": index}
        self._call_id, self._name = call_id, name
        self._arguments: list[str] = []

    def begun(self) -> Iterator[Event]:
        """Yields what is told when it begins."""
        index = self._place["output_index"]
        yield {"type": "response.output_item.added", "output_index": index, "item": self.shown(_IN_PROGRESS)}

    def more(self, arguments: str) -> Event:
        """Takes in what is new of its arguments, and returns what is told of it."""
        self._arguments.append(arguments)
        return {"type": "response.function_call_arguments.delta", **self._place, "delta": arguments}

    def ended(self, status: str) -> Iterator[Event]:
        """Yields what is told when it is over."""
        arguments = "".join(self._arguments)
        written = {"name": self._name, "arguments": arguments}
        yield {"type": "response.function_call_arguments.done", **self._place, **written}
        index = self._place["output_index"]
        yield {"type": "response.output_item.done", "output_index": index, "item": self.shown(status)}

    def shown(self, status: str) -> JsonObject:
        """Returns the item as it stands."""
        return {
            "id": self._place["item_id"],
            "type": "function_call",
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._arguments),
            "status": status,
        }


def item_id(prefix: str, response_id: str, index: int) -> str:
    """Returns an id for an item, which follows from its response's."""
    return f"{prefix}_{response_id.partition('_')[2] or response_id}_{index}"
