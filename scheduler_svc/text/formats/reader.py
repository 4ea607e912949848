"""Reads one answer as its text comes: what of it is text, what thought, and which functions it calls."""

from collections.abc import Mapping, Sequence

from scheduler_svc.text.formats.calls import CallFormat
from scheduler_svc.text.formats.cursor import Reading, TextCursor
from scheduler_svc.text.formats.harmony import Harmony
from scheduler_svc.text.formats.pieces import Found, Function, Sink
from scheduler_svc.text.formats.table import Formats, ReasoningFormat
from scheduler_svc.text.formats.thoughts import WORDS, read_thought


class AnswerReader:
    """The reading of one answer.

    Args:
        formats: How the model writes.
        functions: Those that it may call; none: calls are not looked for.
        is_thinking: Whether the prompt opened a thought.
        most_calls: The answer ends with so many; None: it goes on.
    """

    def __init__(
        self,
        formats: Formats,
        functions: Sequence[Function] = (),
        *,
        is_thinking: bool = False,
        most_calls: int | None = None,
    ) -> None:
        self._cursor, self._sink = TextCursor(), Sink(most_calls)
        self._reading = _read(formats, {one.name: one for one in functions}, self._cursor, self._sink, is_thinking)
        next(self._reading)

    @property
    def is_over(self) -> bool:
        """Whether the answer has as many calls as it may, so that nothing is to follow."""
        return self._sink.is_full

    def push(self, piece: str) -> Found:
        """Returns what is new once `piece` has come."""
        self._cursor.feed(piece)
        next(self._reading, None)
        return self._sink.take()

    def finish(self, piece: str = "") -> Found:
        """Returns what is new once `piece` has come, behind which nothing follows."""
        self._cursor.feed(piece)
        self._cursor.end()
        next(self._reading, None)
        self._sink.end()
        return self._sink.take()


def words_of(formats: Formats, *, with_calls: bool) -> tuple[str, ...]:
    """Returns texts that a reader needs to see, though they may be tokens that are no text."""
    is_harmony = formats.reasoning is ReasoningFormat.HARMONY
    reasoning = Harmony.words if is_harmony else WORDS if formats.reasoning is ReasoningFormat.THINK else ()
    return (*reasoning, *(formats.calls.words if with_calls and formats.calls is not None else ()))


def _read(
    formats: Formats, functions: Mapping[str, Function], cursor: TextCursor, sink: Sink, is_thinking: bool
) -> Reading[None]:
    calls: CallFormat | None = formats.calls if functions else None
    yield from cursor.wait()
    if formats.reasoning is ReasoningFormat.HARMONY:
        calls = calls or Harmony()
    elif formats.reasoning is ReasoningFormat.THINK:
        yield from read_thought(cursor, sink, is_open=is_thinking)
    if calls is not None:
        yield from calls.read(cursor, sink, functions)
    else:
        yield from cursor.rest(sink.text)
