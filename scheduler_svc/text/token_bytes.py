"""Knows which bytes a token stands for, from how vocabularies write bytes: byte-level alphabets and pieces like <0xC3>.

Decoding alone can't tell: a part of a character has no text.
"""

import re
from collections.abc import Mapping
from typing import Any

from scheduler_svc.text.byte_alphabet import BYTE_OF_CHAR

_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")


class PieceBytes:
    """The bytes of pieces of one vocabulary.

    Args:
        decoder: Decoder of its tokenizer.json.
    """

    def __init__(self, decoder: Mapping[str, Any] | None) -> None:
        kinds = _kinds(decoder)
        self._is_byte_level = "ByteLevel" in kinds
        self._has_byte_pieces = "ByteFallback" in kinds

    def of(self, piece: str) -> bytes | None:
        """Returns the piece's bytes; None if they depend on the pieces before it."""
        if self._is_byte_level:
            # A piece with other characters is an added token, which stands for its own text.
            values = [BYTE_OF_CHAR.get(char) for char in piece]
            return bytes(value for value in values if value is not None) if None not in values else piece.encode()
        match = _BYTE_PIECE.fullmatch(piece) if self._has_byte_pieces else None
        return bytes([int(match[1], 16)]) if match else None


def _kinds(decoder: Mapping[str, Any] | None) -> set[str]:
    if decoder is None:
        return set()
    if decoder["type"] == "Sequence":
        return set[str]().union(*(_kinds(part) for part in decoder["decoders"]))
    return {decoder["type"]}
