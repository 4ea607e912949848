"""What a value may be, read from its type hint, and what is wrong with one that is not so, in words for its sender."""

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

_MAX_SHOWN = 60
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _MAX_SHOWN
_NO_LISTS = (str, bytes, bytearray, memoryview, Mapping)


class Bits(NamedTuple):
    """Annotates an integer that has another size than others."""

    number: int


class Fault(NamedTuple):
    """What is wrong with a value.

    Attributes:
        path: Which part of it is meant, as [2]; empty for all of it.
        given: That part.
        allowed: What it may be, in words.
    """

    path: str
    given: object
    allowed: str


class Kind(ABC):
    """What a value may be.

    Attributes:
        words: Each thing that it may be, such as "a text".
        many: Several of them, such as "texts".
    """

    words: tuple[str, ...]
    many: str

    @abstractmethod
    def fault(self, value: object) -> Fault | None:
        """Returns what is wrong with a value; None for nothing."""

    def holds_all(self, values: Collection[object]) -> bool:
        """Whether values are all right, told at once; False where each has to be looked at."""
        return False


def kind_of(hint: Any) -> Kind:
    """Returns what a type hint allows; None, which is as if nothing was given, is no part of it."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, parts = get_origin(hint), get_args(hint)
    if origin is not None:
        return _PARTED[origin](parts)
    if issubclass(hint, Enum):
        return _Word([member.value for member in hint])
    return _Plain((f"a {hint.__name__}",), f"{hint.__name__}s", lambda value: isinstance(value, hint))


def listed(words: Iterable[str]) -> str:
    """Returns alternatives as one reads them."""
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last


def shown(value: object) -> str:
    """Returns a value as an error shows it."""
    return _SHORT.repr(value)


@dataclass(frozen=True, slots=True)
class _Plain(Kind):
    words: tuple[str, ...]
    many: str
    holds: Callable[[Any], bool]

    def fault(self, value: object) -> Fault | None:
        return None if self.holds(value) else Fault("", value, listed(self.words))


class _Word(_Plain):
    def __init__(self, allowed: Sequence[object]) -> None:
        words = tuple(map(repr, allowed))
        super().__init__(words, listed(words), lambda value: isinstance(value, str) and value in allowed)


class _Text(Kind):
    words, many = ("a text",), "texts"

    def fault(self, value: object) -> Fault | None:
        if not isinstance(value, str):
            return Fault("", value, "a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            return Fault("", value, "a text that UTF-8 can hold")
        return None


class _Integer(Kind):
    words, many = ("an integer",), "integers"

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._end = 1 << (bits - 1)

    def fault(self, value: object) -> Fault | None:
        if isinstance(value, bool) or not isinstance(value, Integral):
            return Fault("", value, "an integer")
        return None if -self._end <= int(value) < self._end else Fault("", value, f"an integer of {self._bits} bits")

    def holds_all(self, values: Collection[Any]) -> bool:
        # A prompt may have a hundred thousand tokens.
        return set(map(type, values)) == {int} and min(values) >= -self._end and max(values) < self._end


class _Number(Kind):
    words, many = ("a number",), "numbers"

    def fault(self, value: object) -> Fault | None:
        if isinstance(value, bool) or not isinstance(value, Real):
            return Fault("", value, "a number")
        try:
            float(value)
        except OverflowError:
            return Fault("", value, "a number of 64 bits")
        return None


class _Several(Kind):
    def __init__(self, item: Kind) -> None:
        self.words, self.many = (f"a list of {item.many}",), "lists"
        self._item = item

    def fault(self, value: object) -> Fault | None:
        if isinstance(value, _NO_LISTS) or not isinstance(value, Collection):
            return Fault("", value, self.words[0])
        if self._item.holds_all(value):
            return None
        each = ((index, self._item.fault(one)) for index, one in enumerate(value))
        return next((fault._replace(path=f"[{index}]{fault.path}") for index, fault in each if fault), None)


class _Pairs(Kind):
    def __init__(self, key: Kind, value: Kind) -> None:
        self.words, self.many = (f"a mapping from {key.many} to {value.many}",), "mappings"
        self._key, self._value = key, value

    def fault(self, value: object) -> Fault | None:
        if not isinstance(value, Mapping):
            return Fault("", value, self.words[0])
        for key, one in value.items():
            if fault := self._key.fault(key):
                return fault._replace(allowed=f"{fault.allowed} as a key")
            if fault := self._value.fault(one):
                return fault._replace(path=f"[{shown(key)}]{fault.path}")
        return None


def _either(parts: Sequence[Any]) -> Kind:
    kinds = [kind_of(part) for part in parts if part is not NoneType]
    return kinds[0] if len(kinds) == 1 else _Either(kinds)


class _Either(Kind):
    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.words = tuple(chain.from_iterable(kind.words for kind in kinds))
        self.many = listed(kind.many for kind in kinds)
        self._kinds = kinds

    def fault(self, value: object) -> Fault | None:
        if any(kind.fault(value) is None for kind in self._kinds):
            return None
        return Fault("", value, listed(self.words))


_ANYTHING = _Plain(("a value",), "values", lambda value: True)
_PLAIN: dict[Any, Kind] = {
    Any: _ANYTHING,
    object: _ANYTHING,
    bool: _Plain(("True", "False"), "True or False", lambda value: isinstance(value, bool)),
    int: _Integer(32),
    float: _Number(),
    str: _Text(),
}
_PARTED: dict[Any, Callable[[Sequence[Any]], Kind]] = {
    Union: _either,
    UnionType: _either,
    Annotated: lambda parts: _Integer(parts[1].number),
    Literal: _Word,
    Sequence: lambda parts: _Several(kind_of(parts[0])),
    Collection: lambda parts: _Several(kind_of(parts[0])),
    Mapping: lambda parts: _Pairs(kind_of(parts[0]), kind_of(parts[1])),
}
