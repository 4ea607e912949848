"""Owns the text of one stream while its tokens arrive: what may be shown now, what must wait, and where it stops.

    token ids ──IncrementalDetokenizer──▶ whole characters ──StopStringFilter──▶ text that can be shown

Two things are held back: tokens that do not complete a character yet, and text that may be the start of a stop string.
Pure: knows nothing of requests, time or sockets. A push costs the same however long the text is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from scheduler_svc.text.overlap import overlap

REPLACEMENT = "\ufffd"
# A character has at most 4 bytes, hence at most 4 tokens: when many more wait, some of them are no character at all.
MAX_WAITING_TOKENS = 16
# Tokens that are decoded together when several have come: windows stay short, so that a token costs the same.
MAX_TOKENS_AT_ONCE = 8
# Tokens of the prompt that are decoded before the first new one, for decoders that treat the start of a text specially.
NUM_CONTEXT_TOKENS = 4


class Decoder(Protocol):
    """What detokenization needs of a tokenizer."""

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids of tokens that are not part of the text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of all of `token_ids`, U+FFFD for what is no character."""


class IncrementalDetokenizer:
    """Turns token ids into text, whole characters at a time.

    One token's text depends on its neighbours, so a window of tokens is decoded and what it adds is shown:

        [ ... shown, forgotten ... | context: shown | waiting: not shown ]
                                   └────────── _window ──────────────────┘

    Args:
        decoder: Decodes windows of tokens.
        prompt_token_ids: What the text continues; its end is the first context.
    """

    def __init__(self, decoder: Decoder, prompt_token_ids: Sequence[int] = ()) -> None:
        self._decoder = decoder
        self._window = [
            token_id for token_id in prompt_token_ids[-NUM_CONTEXT_TOKENS:] if token_id not in decoder.special_token_ids
        ]
        self._shown = decoder.decode(self._window)
        if self._shown.endswith(REPLACEMENT):  # the prompt ends inside a character: of no use as context
            self._window, self._shown = [], ""
        self._num_context = len(self._window)

    def push(self, token_id: int) -> str:
        """Returns the text that `token_id` completes; empty if it completes none."""
        if token_id in self._decoder.special_token_ids:
            return ""
        self._window.append(token_id)
        text = self._decoder.decode(self._window)
        if len(text) > len(self._shown) and not text.endswith(REPLACEMENT):
            return self._show(text)
        if len(self._window) - self._num_context > MAX_WAITING_TOKENS:
            return self._split(text)
        return ""

    def extend(self, token_ids: Sequence[int]) -> str:
        """Returns the text that all of `token_ids` complete: what pushing each gives, in fewer calls of the decoder."""
        if len(token_ids) == 1:
            return self.push(token_ids[0])
        starts = range(0, len(token_ids), MAX_TOKENS_AT_ONCE)
        return "".join([self._push_together(token_ids[start : start + MAX_TOKENS_AT_ONCE]) for start in starts])

    def _push_together(self, token_ids: Sequence[int]) -> str:
        special = self._decoder.special_token_ids
        window = self._window + [token_id for token_id in token_ids if token_id not in special]
        text = self._decoder.decode(window)
        if len(text) <= len(self._shown) or text.endswith(REPLACEMENT):  # it matters which of them waits
            return "".join([self.push(token_id) for token_id in token_ids])
        self._window = window
        return self._show(text)

    def flush(self) -> str:
        """Returns what waits, U+FFFD in place of an incomplete character; nothing may be pushed afterwards."""
        return self._show(self._decoder.decode(self._window))

    def _show(self, text: str) -> str:
        """Shows all of the window's text; what waited becomes the context."""
        new = text[len(self._shown) :]
        self._window = self._window[self._num_context :]
        self._num_context = len(self._window)
        self._shown = self._decoder.decode(self._window)
        return new

    def _split(self, text: str) -> str:
        """Shows the window's text up to a place where it falls into two parts that do not need each other."""
        for end in range(len(self._window) - 1, self._num_context, -1):
            head = self._decoder.decode(self._window[:end])
            tail = self._decoder.decode(self._window[end:])
            if tail and head + tail == text:
                new = head[len(self._shown) :]
                self._window, self._num_context, self._shown = self._window[end:], 0, ""
                return new
        return self._show(text)


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that can be shown, and the stop string that ended it, if one did."""

    text: str
    stop_string: str | None = None


class StopStringFilter:
    """Ends a text at the first stop string that is completed in it, the longest if several are at once.

    What is shown does not depend on how the text is cut into pieces.

    Args:
        stop_strings: They.
        includes_stop: Whether the one that ends the text is a part of it.
    """

    def __init__(self, stop_strings: Sequence[str], *, includes_stop: bool = False) -> None:
        self._stop_strings = tuple(stop_strings)
        self._includes_stop = includes_stop
        self._held = ""

    def push(self, piece: str) -> TextDelta:
        """Returns what can be shown once `piece` has come; nothing may be pushed after a stop string was met."""
        if not self._stop_strings:
            return TextDelta(piece)
        text = self._held + piece
        matches = [(at + len(stop), at, stop) for stop in self._stop_strings if (at := text.find(stop)) >= 0]
        if matches:
            end, start, stop_string = min(matches)
            self._held = ""
            return TextDelta(text[: end if self._includes_stop else start], stop_string)
        num_held = max((overlap(text, stop) for stop in self._stop_strings), default=0)
        shown = len(text) - num_held
        self._held = text[shown:]
        return TextDelta(text[:shown])

    def flush(self) -> str:
        """Returns what was held back for a stop string that did not come."""
        held, self._held = self._held, ""
        return held


class TextAssembler:
    """The text of one stream: detokenizer and stop strings together.

    Args:
        decoder: Decodes tokens; None for a model without a tokenizer, whose text stays empty.
        prompt_token_ids: What the text continues.
        stop_strings: Strings that end the text.
        min_tokens: Tokens before which stop strings are not looked for.
        includes_stop: Whether the stop string that ends the text is a part of it.
    """

    def __init__(
        self,
        decoder: Decoder | None,
        prompt_token_ids: Sequence[int],
        stop_strings: Sequence[str],
        min_tokens: int = 0,
        *,
        includes_stop: bool = False,
    ) -> None:
        self._detokenizer = IncrementalDetokenizer(decoder, prompt_token_ids) if decoder else None
        self._filter = StopStringFilter(stop_strings, includes_stop=includes_stop)
        self._stop_strings = tuple(stop_strings)
        self._min_tokens = min_tokens
        self._num_tokens = 0

    def push(self, token_id: int) -> TextDelta:
        """Returns the text that `token_id` lets show; nothing may be pushed after a stop string was met."""
        self._num_tokens += 1
        piece = self._detokenizer.push(token_id) if self._detokenizer else ""
        return self._filter.push(piece) if self._num_tokens >= self._min_tokens else TextDelta(piece)

    def extend(self, token_ids: Sequence[int]) -> tuple[TextDelta, int]:
        """Returns the text that tokens let show up to a stop string, and the number of tokens that it took."""
        if not self._stop_strings:
            return TextDelta(self._detokenizer.extend(token_ids) if self._detokenizer else ""), len(token_ids)
        pieces: list[str] = []
        for num_used, token_id in enumerate(token_ids, start=1):
            delta = self.push(token_id)
            pieces.append(delta.text)
            if delta.stop_string is not None:
                return TextDelta("".join(pieces), delta.stop_string), num_used
        return TextDelta("".join(pieces)), len(token_ids)

    def finish(self) -> TextDelta:
        """Returns all that was held back; a stop string may still be met in it."""
        delta = self._filter.push(self._detokenizer.flush() if self._detokenizer else "")
        return delta if delta.stop_string is not None else TextDelta(delta.text + self._filter.flush())
