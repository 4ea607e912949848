"""Reads settings from a TOML file, under the options' names, strictly: what it does not know is refused.

    grpc-port = 50052         above the tables: for the process that was given the file
    [scheduler]               for the scheduler alone; wins over what stands above
    be-min-share = 0.1
    [worker]                  for the worker alone
    dtype = "float32"

Knows neither command lines nor the environment.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qllm.settings import PlacedSetting, Setting, SettingRefused

TABLES = ("scheduler", "worker")
CONFIG_HELP = (
    "Reads settings from this TOML file: the names are those of the options, without the hyphens in front. Options and "
    "the environment win over the file. The tables [scheduler] and [worker] hold what is for one process alone."
)
_TABLE_NAMES = " or ".join(f"[{name}]" for name in TABLES)
_ALLOWED_NAMES = (
    f"the names of the options that --help lists; what is for another process stands in its own table, {_TABLE_NAMES}"
)


@dataclass(frozen=True, slots=True)
class ConfigFile(Setting):
    """The setting that names a config file.

    Attributes:
        table: The table that belongs to the process.
        is_shared: Whether the file was given to the other process, so that only the table is meant for this one.
    """

    table: str = ""
    is_shared: bool = False


def read_config_file(file: Path, described: ConfigFile, settings: Sequence[PlacedSetting]) -> dict[str, Any]:
    """Returns the values of the settings that a file names, by their keys, in the options' units.

    Raises:
        SettingRefused: The file cannot be read, or holds something that is not allowed; the
            message names the file and the key.
    """
    known = {one.key: one for one in settings if _may_stand_in_a_file(one.setting)}
    content = _parse(file)
    tables = {name: content.pop(name) for name in TABLES if name in content}
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise SettingRefused(f"{file}: {name}: got {table!r}, allowed is a table")
    above = {} if described.is_shared else content
    return {
        **_values(f"{file}: ", above, known),
        **_values(f"{file}: [{described.table}] ", tables.get(described.table, {}), known),
    }


def _may_stand_in_a_file(setting: Setting) -> bool:
    return not (isinstance(setting, ConfigFile) or setting.is_argument or setting.hidden)


def _parse(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            return tomllib.load(opened)
    except OSError as error:
        raise SettingRefused(f"{file}: it cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingRefused(f"{file}: it is no TOML: {error}") from None


def _values(place: str, content: Mapping[str, Any], known: Mapping[str, PlacedSetting]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in content.items():
        one = known.get(name.replace("-", "_"))
        if one is None:
            near = get_close_matches(name.replace("_", "-"), [one.name for one in known.values()], n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise SettingRefused(f"{place}{name}: there is no such setting{hint}; allowed are {_ALLOWED_NAMES}")
        if one.key in values:
            raise SettingRefused(f"{place}{name}: it is there twice, with - and with _")
        values[one.key] = _value(f"{place}{name}", value, one)
    return values


def _value(place: str, value: Any, one: PlacedSetting) -> Any:
    """Returns the value if it has the setting's type and is allowed."""
    if one.takes_several:
        several = value if isinstance(value, list) else [value]
        return [_single(place, each, one) for each in several]
    return _single(place, value, one)


def _single(place: str, value: Any, one: PlacedSetting) -> Any:
    if one.choices:
        word = value.lower() if isinstance(value, str) else value
        if word not in one.choices:
            raise SettingRefused(f"{place}: got {value!r}, allowed are {', '.join(one.choices)}")
        return word
    wanted, words = _TYPES.get(one.type, _TYPES[str])
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        limits = f", {one.range}" if one.range else ""
        raise SettingRefused(f"{place}: got {value!r}, allowed is {words}{limits}")
    if refusal := one.refusal(value):
        raise SettingRefused(f"{place}: {refusal}")
    return value


# What a value of each type may be in TOML, and the words for it; paths are texts.
_TYPES: Mapping[type, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a text"),
}
