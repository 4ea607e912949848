"""The alphabet in which byte-level vocabularies write bytes: 256 printable characters.

Source: GPT-2's encoder.py, bytes_to_unicode; Hugging Face's tokenizers has the same.
"""

_PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)

BYTE_OF_CHAR = {
    **{chr(byte): byte for byte in _PRINTABLE},
    **{chr(256 + index): byte for index, byte in enumerate(_OTHERS)},
}
"""The byte that each character stands for."""
