"""Finds the tokens of an answer's text among all of its tokens, of which thoughts, calls and marks have some, too."""

from collections.abc import Iterator, Sequence
from typing import Any

from scheduler_svc.api.openai.question import JsonObject


class TextLogprobs:
    """The tokens of one answer, as chats show them, in its order.

    All of them but special ones are together what the model wrote, and what is shown of it is a part of that, or
    several parts where calls stand between: then it is not known whose they are, and none is told of.
    """

    def __init__(self) -> None:
        self._written = bytearray()  # what was written and not shown yet
        self._waiting: list[tuple[JsonObject, int]] = []  # tokens, and where in it each ends
        self._is_told = False  # whether the first of them was handed out, and a part of it was not shown

    def add(self, tokens: Sequence[JsonObject]) -> None:
        """Takes in what was written."""
        for token in tokens:
            data: Any = token["bytes"]
            self._written += bytes(data)
            self._waiting.append((token, len(self._written)))

    def shown(self, text: str) -> list[JsonObject]:
        """Returns the tokens of a text that is shown now, but for one that an earlier text began with."""
        data = text.encode()
        start = self._written.find(data)
        if start < 0:
            self.forget()
            return []
        tokens = [*self._tokens(start, start + len(data))]
        self._drop(start + len(data))
        return tokens

    def forget(self) -> None:
        """Forgets what was written, which is shown in another way."""
        self._drop(len(self._written))

    def _tokens(self, start: int, end: int) -> Iterator[JsonObject]:
        begin, is_told = 0, self._is_told
        for token, token_end in self._waiting:
            if token_end > start and begin < end and not is_told:
                yield token
            begin, is_told = token_end, False

    def _drop(self, num_bytes: int) -> None:
        ends = [0, *(end for _, end in self._waiting)]
        self._is_told = num_bytes not in ends
        del self._written[:num_bytes]
        self._waiting = [(token, end - num_bytes) for token, end in self._waiting if end > num_bytes]
