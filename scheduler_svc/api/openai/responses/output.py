"""Writes the output of a response, item by item, from what a chat's answer says, at once or in parts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.api.openai.responses.items import Event, FunctionCall, Item, Message, Thoughts
from scheduler_svc.api.openai.responses.text_logprobs import TextLogprobs

COMPLETED, INCOMPLETE = "completed", "incomplete"


class Output:
    """One response's output.

    Args:
        response_id: Its items' ids follow from it.
        hides_thoughts: Whether what was thought is left out.
    """

    def __init__(self, response_id: str, *, hides_thoughts: bool = False) -> None:
        self._response_id = response_id
        self._hides_thoughts = hides_thoughts
        self._over: list[JsonObject] = []
        self._item: Item | None = None
        self._call_index: int | None = None
        self._logprobs = TextLogprobs()

    def shown(self, status: str = INCOMPLETE) -> list[JsonObject]:
        """Returns the items as they stand, one that is not over with this status."""
        return self._over if self._item is None else [*self._over, self._item.shown(status)]

    def take(self, message: Mapping[str, Any], logprobs: Sequence[JsonObject]) -> Iterator[Event]:
        """Takes in a chat's message, or a delta of it, and yields what is told of it.

        Args:
            message: It.
            logprobs: All of its tokens, of which a message has those of its text.
        """
        self._logprobs.add(logprobs)
        if thought := message.get("reasoning_content"):
            self._logprobs.shown(thought)
            yield from self._think(thought)
        if text := message.get("content"):
            yield from self._begin_unless(Message)
            assert isinstance(self._item, Message)
            yield self._item.more(text, self._logprobs.shown(text))
        for place, call in enumerate(message.get("tool_calls") or ()):
            self._logprobs.forget()
            yield from self._take_call(call.get("index", place), call)

    def _think(self, thought: str) -> Iterator[Event]:
        if not self._hides_thoughts:
            yield from self._begin_unless(Thoughts)
            assert isinstance(self._item, Thoughts)
            yield self._item.more(thought)

    def end(self, status: str) -> Iterator[Event]:
        """Ends the item that is being written; an output without any gets an empty message."""
        if self._item is None and not self._over:
            yield from self._begin(Message(self._response_id, 0))
        yield from self._end_item(status)

    def _begin_unless(self, kind: type[Thoughts | Message]) -> Iterator[Event]:
        if not isinstance(self._item, kind):
            yield from self._end_item(COMPLETED)
            yield from self._begin(kind(self._response_id, len(self._over)))

    def _take_call(self, index: int, call: Mapping[str, Any]) -> Iterator[Event]:
        function = call.get("function") or {}
        if not isinstance(self._item, FunctionCall) or self._call_index != index:
            yield from self._end_item(COMPLETED)
            self._call_index = index
            yield from self._begin(
                FunctionCall(self._response_id, len(self._over), call.get("id") or "", function.get("name") or "")
            )
        assert isinstance(self._item, FunctionCall)
        if arguments := function.get("arguments"):
            yield self._item.more(arguments)

    def _begin(self, item: Item) -> Iterator[Event]:
        self._item = item
        yield from item.begun()

    def _end_item(self, status: str) -> Iterator[Event]:
        if self._item is not None:
            yield from self._item.ended(status)
            self._over.append(self._item.shown(status))
            self._item = None
