"""Keeps one object for each id of a vocabulary, so that prompts that wait cost 8 bytes a token and not 40."""

from collections.abc import Sequence


class TokenIds:
    """The ids of a vocabulary.

    Args:
        vocab_size: How many there are.
    """

    def __init__(self, vocab_size: int) -> None:
        self._ids = tuple(range(vocab_size))

    def kept(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """Returns equal ids, all of which must be in the vocabulary, as the objects that are kept."""
        return tuple(map(self._ids.__getitem__, token_ids))
