"""What a setting is: name, default, unit, range and help, said once, on the field of a dataclass.

    ls_tpot_s: Annotated[
        float,
        Setting(0, 60_000, option="ls-tpot-ms", scale=1e3, panel=SCHEDULING),
        "Sets the time that a latency-sensitive request may wait for a token, in milliseconds.",
    ] = 0.0
        │
        ├── --ls-tpot-ms, its text in --help, QLLM_LS_TPOT_MS     `qllm.options`
        ├── ls-tpot-ms = 40 in a config file                      `qllm.config_file`
        ├── docs/settings.md, docker-compose.yml                  `scripts.settings`
        └── `check`, whoever made the dataclass

A field that is a dataclass itself is walked through; one without a `Setting` is no setting. Knows the standard library
alone: the scheduler's core has settings too.
"""

import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from enum import Enum
from keyword import iskeyword
from typing import Any, TypeVar

ENVIRONMENT_PREFIX = "QLLM_"
MODEL, SERVING, SECURITY = "Model", "Serving", "Security"
SCHEDULING, MEMORY, ADVANCED = "Scheduling", "Memory", "Advanced"
_UNITS = {"s": "s", "ms": "ms", "gib": "GiB", "mib": "MiB", "tokens": "tokens"}
_DIGITS = 12  # of a value that was converted between units; the conversion adds what lies beyond

T = TypeVar("T")


class SettingRefused(ValueError):
    """A setting that is not allowed; the message names it, what was given and what is allowed."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What there is to say about a setting besides the field's name, type and default, and the text that follows it.

    The text is the setting's help: whole sentences for those who have not read the code, which
    stand without those of others.

    Attributes:
        low: Least value, in the option's unit; `high` is the greatest. Without a greatest one infinity is allowed.
        is_finite: Whether infinity is not allowed, although there is no greatest value.
        option: Name of the option without the hyphens in front, where it is not the field's.
        scale: How many of the option's units make one of the field's: 1e3 for an option in ms and a field in s.
        choices: The words that are allowed, where the type does not say so.
        allowed: Which texts are allowed, where neither choices nor the type say so.
        panel: The subject that it stands under in --help and in docs/settings.md.
        metavar: What --help shows as its value; None shows its type.
        unset: What holds where nothing is set and the default is None.
        hidden: Whether it is for programs only.
        is_argument: Whether it takes the words of a command line that belong to no option.
    """

    low: float = -math.inf
    high: float = math.inf
    is_finite: bool = False
    option: str | None = None
    scale: float = 1.0
    choices: tuple[str, ...] = ()
    allowed: str | None = None
    panel: str | None = None
    metavar: str | None = None
    unset: str | None = None
    hidden: bool = False
    is_argument: bool = False


@dataclass(frozen=True, slots=True)
class PlacedSetting:
    """A setting and the field that has it.

    Attributes:
        field: The field's name.
        kind: The field's type.
        default: The field's default, in its own unit; MISSING: it has to be given.
        help: The text of its help.
        path: The fields that lead to the dataclass it is a field of, from the one that was asked about.
    """

    setting: Setting
    field: str
    kind: Any
    default: Any
    help: str = ""
    path: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the option without the hyphens in front, which config files have too."""
        return self.setting.option or self.field.replace("_", "-")

    @property
    def option(self) -> str:
        """The option on the command line."""
        return f"--{self.name}"

    @property
    def key(self) -> str:
        """The option's name as an identifier of Python."""
        key = self.name.replace("-", "_")
        return f"{key}_" if iskeyword(key) else key

    @property
    def environment(self) -> str:
        """The environment variable."""
        return f"{ENVIRONMENT_PREFIX}{self.name.replace('-', '_').upper()}"

    @property
    def type(self) -> type:
        """The type of a value, or of each of several."""
        (kind,) = set(_plain_types(self.kind)) - {type(None)}
        return kind

    @property
    def takes_several(self) -> bool:
        """Whether it takes several values."""
        return any(typing.get_origin(part) in (list, tuple) for part in (self.kind, *typing.get_args(self.kind)))

    @property
    def unit(self) -> str:
        """The unit of the option, which its name ends in; empty if it has none."""
        return _UNITS.get(self.name.rpartition("-")[2], "") if self.type in (int, float) else ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are allowed; none where it takes others."""
        if issubclass(self.type, Enum):
            return tuple(str(member.value) for member in self.type)
        return self.setting.choices

    @property
    def range(self) -> str:
        """Says which numbers are allowed, in the option's unit; empty if all are."""
        low, high = self.setting.low, self.setting.high
        if low == -math.inf:
            return "" if high == math.inf else f"{plain(high)} or less"
        return f"{plain(low)} or more" if high == math.inf else f"{plain(low)} to {plain(high)}"

    @property
    def as_field(self) -> "PlacedSetting":
        """The same under the field's own name, with its range in the field's unit."""
        scale = self.setting.scale
        low, high = self.setting.low / scale, self.setting.high / scale
        return replace(self, setting=replace(self.setting, option=None, scale=1.0, low=low, high=high))

    def given(self, value: Any) -> Any:
        """Returns a value of the field in the option's unit."""
        if self.setting.scale == 1 or value is None:
            return value
        return float(f"{value * self.setting.scale:.{_DIGITS}g}")

    def taken(self, value: Any) -> Any:
        """Returns a value of the option as the field has it."""
        if typing.get_origin(self.kind) is tuple:
            return tuple(value or ())
        return value if self.setting.scale == 1 or value is None else value / self.setting.scale

    def refusal(self, value: Any, source: str = "") -> str | None:
        """Says what is wrong with a value in the option's unit and what is allowed; None if nothing is wrong.

        Args:
            value: The value.
            source: What to say after it of where it comes from.
        """
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if self.setting.is_finite and math.isinf(value):
                allowed = ", ".join(filter(None, ("a finite number", self.range)))
            elif self.setting.low <= value <= self.setting.high:
                return None
            else:
                allowed = self.range or "a number"
            return f"got {plain(value)}{source}, allowed is {allowed}"
        if self.setting.choices and value not in self.setting.choices:
            return f"got {value!r}{source}, allowed are {', '.join(self.setting.choices)}"
        return None


def settings_of(kind: type) -> tuple[PlacedSetting, ...]:
    """Returns the settings of a dataclass, those of dataclasses inside it at their places among them."""
    return tuple(_walk(kind, ()))


def make(kind: type[T], values: Mapping[str, Any]) -> T:
    """Makes a dataclass, and those inside it, of the options' values by their keys."""
    own = {one.field: one.taken(values[one.key]) for one in settings_of(kind) if not one.path}
    hints = typing.get_type_hints(kind)
    inner = {one.name: make(hints[one.name], values) for one in _fields(kind) if _is_settings(hints[one.name])}
    return kind(**own, **inner)


def check(settings: object, path: str | None = None) -> None:
    """Checks every number and every word of a dataclass against what is allowed.

    Args:
        settings: The dataclass.
        path: What stands before the field's name in a refusal; None: the refusal names the option.

    Raises:
        SettingRefused: One is not allowed.
    """
    for one in settings_of(type(settings)):
        owner: Any = settings
        for name in one.path:
            owner = getattr(owner, name)
        value = getattr(owner, one.field)
        refusal = one.refusal(one.given(value)) if path is None else one.as_field.refusal(value)
        if refusal:
            raise SettingRefused(f"{one.option if path is None else f'{path}.{one.field}'}: {refusal}")


def plain(value: float) -> str:
    """Returns a number as it is written: whole ones without a fraction."""
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.{_DIGITS}g}"


def _walk(kind: type, path: tuple[str, ...]) -> Iterator[PlacedSetting]:
    hints = typing.get_type_hints(kind, include_extras=True)
    for one in _fields(kind):
        hint = hints[one.name]
        if _is_settings(hint):
            yield from _walk(hint, (*path, one.name))
        details = getattr(hint, "__metadata__", ())
        for setting in details:
            if isinstance(setting, Setting):
                default = one.default if one.default_factory is MISSING else one.default_factory()
                help_ = " ".join(detail for detail in details if isinstance(detail, str))
                yield PlacedSetting(setting, one.name, typing.get_args(hint)[0], default, help_, path)


def _fields(kind: Any) -> tuple[Any, ...]:
    return fields(kind)


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint) and bool(settings_of(hint))


def _plain_types(hint: Any) -> Iterator[type]:
    """Yields the types that an annotation is made of."""
    parts = [part for part in typing.get_args(hint) if part is not Ellipsis]
    if not parts:
        yield hint
    for part in parts:
        yield from _plain_types(part)
