"""Reads fields of a parsed JSON object, each with its type and its limits. Refuses what it does not know."""

import math
from collections.abc import Mapping

from scheduler_svc.simulation.errors import JobRefused


class Fields:
    """One JSON object on its way to a dataclass.

    Args:
        content: The parsed object.
        path: Its place in the job, for messages.
        known: Names of all fields that it may hold.

    Raises:
        JobRefused: It is no object, or holds a field of another name.
    """

    def __init__(self, content: object, path: str, known: tuple[str, ...]) -> None:
        if not isinstance(content, Mapping):
            raise JobRefused(f"{path}: got {type(content).__name__}, allowed is an object")
        strange = sorted(set(map(str, content)) - set(known))
        if strange:
            raise JobRefused(f"{path}: got {', '.join(strange)}, allowed are {', '.join(known)}")
        self._content = content
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._content

    def get(self, name: str) -> object:
        """Returns a field that must be there, unchecked."""
        if name not in self._content:
            raise JobRefused(f"{self._path}.{name}: is missing")
        return self._content[name]

    def count(self, name: str, low: int, high: int) -> int:
        """Returns a whole number in [low, high]."""
        value = self.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise JobRefused(f"{self._path}.{name}: got {value!r}, allowed is a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """Returns a number in [low, high]."""
        value = self.get(name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not low <= value <= high:  # type: ignore[operator]  # is_number says what it is
            raise JobRefused(f"{self._path}.{name}: got {value!r}, allowed is a number from {low:g} to {high:g}")
        return float(value)  # type: ignore[arg-type]

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        """Returns one of some words."""
        value = self.get(name)
        if value not in allowed:
            raise JobRefused(f"{self._path}.{name}: got {value!r}, allowed are {', '.join(allowed)}")
        return str(value)
