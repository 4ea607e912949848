"""An amount of memory as a setting says it: bytes with their unit, or a share of what is free.

2GiB   512MiB   0.5GiB        so much
25%                           so much of what is free
"""

import re
from dataclasses import dataclass

ALLOWED = "a size such as 2GiB or 512MiB, or a share of what is free such as 25%"
_UNITS = {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_FORM = re.compile(r"(\d+(?:\.\d+)?) ?(MiB|GiB|TiB|%)", re.IGNORECASE)
_MOST_BYTES = 1 << 60  # no machine has as much
_MOST_SHOWN = 40  # characters of what is refused


@dataclass(frozen=True, slots=True)
class MemorySize:
    """An amount of memory.

    Attributes:
        num_bytes: So many; None for a share.
        share: Of what is free, over 0 and up to 1; None for a number of bytes.
    """

    num_bytes: int | None = None
    share: float | None = None

    def of(self, free_bytes: int, taken_bytes: int = 0) -> int:
        """Returns the bytes that it comes to, none at the least.

        Args:
            free_bytes: What is free.
            taken_bytes: What is given away of that already: it comes off a size, and off what a share is of.
        """
        if self.num_bytes is not None:
            return max(0, self.num_bytes - taken_bytes)
        return max(0, int((self.share or 0.0) * (free_bytes - taken_bytes)))


def parse_memory_size(text: str) -> MemorySize:
    """Reads an amount; raises ValueError, which says what was given and what is allowed."""
    found = _FORM.fullmatch(text.strip())
    number = float(found[1]) if found else 0.0
    if not found or not number or (found[2] == "%" and number > 100):
        raise _refusal(text)
    if found[2] == "%":
        return MemorySize(share=number / 100)
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    size_bytes = number * units[found[2].lower()]  # infinite where there are too many digits
    if size_bytes > _MOST_BYTES:
        raise _refusal(text)
    return MemorySize(num_bytes=int(size_bytes))


def _refusal(text: str) -> ValueError:
    given = repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")
    return ValueError(f"got {given}, allowed is {ALLOWED}")
