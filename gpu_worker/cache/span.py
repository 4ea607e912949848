"""One sequence's part of a forward pass."""

from collections.abc import Iterator
from dataclasses import dataclass

from gpu_worker.cache.block_table import BlockTable


@dataclass(slots=True, eq=False)
class Span:
    """One sequence's part of a pass.

    Attributes:
        table: Where the sequence's rows lie.
        start: First row of the pass that is its own.
        num_tokens: Rows of the pass that are its own.
        first_position: Position of its first row in the sequence, which is how many rows were cached before.
        dropped: Whether the sequence is gone, so that its rows are computed no further.
        whole: What it is a part of; None if it is a whole one.
    """

    table: BlockTable
    start: int
    num_tokens: int
    first_position: int
    dropped: bool = False
    whole: "Span | None" = None

    @property
    def stop(self) -> int:
        """One past its last row of the pass."""
        return self.start + self.num_tokens

    @property
    def length(self) -> int:
        """Rows of the sequence that its last token attends to."""
        return self.first_position + self.num_tokens

    @property
    def is_gone(self) -> bool:
        """Whether it, or what it is a part of, is dropped."""
        return (self.whole or self).dropped

    def part(self, begin: int, num_tokens: int) -> "Span":
        """Some of its rows, from its row `begin` on, which see the rows of those before them."""
        whole = self.whole or self
        return Span(self.table, self.start + begin, num_tokens, self.first_position + begin, whole=whole)

    def parts(self, most_tokens: int) -> Iterator["Span"]:
        """Divides it into parts of at most so many tokens."""
        for begin in range(0, self.num_tokens, most_tokens):
            yield self.part(begin, min(most_tokens, self.num_tokens - begin))
