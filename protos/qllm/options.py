"""Makes commands of settings: a parameter that is a dataclass becomes one option for each of its settings.

    @with_settings
    def serve(config: Config) -> None: ...

A command that has a `ConfigFile` among its settings is a process: its settings come from the command line, or else the
environment, or else that file, or else their defaults, and `--check-config` says which it was. Those of other commands
come from the command line alone. A refusal ends either with one line and exit code 2.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, is_dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_origin, get_type_hints

import typer
from rich.markup import escape

from qllm.config_file import ConfigFile, read_config_file
from qllm.settings import PlacedSetting, SettingRefused, make, plain, settings_of

EXIT_REFUSED = 2
_FILES = "qllm.config_files"  # in a context: which settings come from which file
_CHECK = "check_config"
# What is shown of settings is passed on, to who is asked for help for example.
_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^@\s]+@")
_CHECK_HELP = (
    "Prints every setting of this process, its value and where that comes from, checks them, and starts nothing."
)


@dataclass(frozen=True, slots=True)
class Sourced:
    """A setting, its value in the option's unit, and where the value comes from."""

    setting: PlacedSetting
    value: Any
    source: str

    @property
    def line(self) -> tuple[str, str, str]:
        """The option, its value and the source, as they are shown."""
        name = "after --" if self.setting.setting.is_argument else self.setting.option
        return name, as_text(self.setting, self.value), self.source


def _nothing_else(**_: Any) -> None:
    """Checks nothing."""


def with_settings(
    command: Callable[..., None], *, also_check: Callable[..., None] = _nothing_else
) -> Callable[..., None]:
    """Returns a command for typer whose dataclass parameters are spread into options; its other parameters stay.

    The dataclasses are made of what was given once every value is known to be allowed; they may refuse it too.

    Args:
        command: What to run; a `SettingRefused` that it raises is said in one line.
        also_check: What --check-config runs in its place, once the settings themselves are known to be allowed.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    settings = [one for group in groups.values() for one in settings_of(group)]
    is_process = any(isinstance(one.setting, ConfigFile) for one in settings)
    own_context = next((name for name, hint in hints.items() if hint is typer.Context), None)

    @functools.wraps(command)
    def spread(**given: Any) -> None:
        context: typer.Context = given[own_context] if own_context else given.pop("context")
        is_check = given.pop(_CHECK, False)
        sourced = [_sourced(context, one, given.pop(one.key)) for one in settings]
        try:
            if is_check:
                typer.echo(_table(sourced))
            _refuse_what_is_not_allowed(sourced)
            values = {one.setting.key: one.value for one in sourced}
            given.update({name: make(group, values) for name, group in groups.items()})
            (also_check if is_check else command)(**given)
        except SettingRefused as refusal:
            _end(context, refusal)

    parameters = list(_parameters(inspect.signature(command), hints, groups, settings, is_process))
    if own_context is None:
        parameters.append(_keyword("context", typer.Context))
    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spread.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": None}
    return spread


def as_text(setting: PlacedSetting, value: Any) -> str:
    """Returns a value in the option's unit as it is written on the command line, but for passwords in URLs."""
    if value in (None, ""):
        return setting.setting.unset or "none"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return " ".join(as_text(setting, one) for one in value) or setting.setting.unset or "none"
    return plain(value) if isinstance(value, float) else _PASSWORD.sub(r"\1…@", str(value))


# ---- parameters, as typer reads them


def _parameters(
    signature: inspect.Signature,
    hints: Mapping[str, Any],
    groups: Mapping[str, type],
    settings: Iterable[PlacedSetting],
    is_process: bool,
) -> Iterator[inspect.Parameter]:
    for parameter in signature.parameters.values():
        if parameter.name not in groups:
            kind = inspect.Parameter.KEYWORD_ONLY
            yield parameter.replace(annotation=hints[parameter.name], kind=kind)
            continue
        for one in settings_of(groups[parameter.name]):
            yield _parameter(one, settings, is_process)
    if is_process:
        option = typer.Option("--check-config", help=_CHECK_HELP)
        yield _keyword(_CHECK, Annotated[bool, option], default=False)


def _parameter(one: PlacedSetting, settings: Iterable[PlacedSetting], is_process: bool) -> inspect.Parameter:
    kind, default = _kind(one)
    setting = one.setting
    is_unset = one.default in (None, ())
    shared: dict[str, Any] = {
        "help": escape(_help(one)),
        "metavar": setting.metavar,
        "rich_help_panel": setting.panel,
        "hidden": setting.hidden,
        "envvar": one.environment if is_process and not (setting.is_argument or setting.hidden) else None,
        "show_default": setting.unset or False if is_unset else True,
    }
    if setting.is_argument:
        return _keyword(one.key, Annotated[kind, typer.Argument(**shared)], default=default)
    if isinstance(setting, ConfigFile):
        shared |= {"is_eager": True, "callback": _ConfigFileReader(setting, tuple(settings)).read}
    # What is off by default may be switched on elsewhere than on the command line, which wins.
    can_be_undone = one.type is bool and (is_process or one.default is not False)
    name = f"--{one.name}/--no-{one.name}" if can_be_undone else one.option
    return _keyword(one.key, Annotated[kind, typer.Option(name, **shared)], default=default)


def _kind(one: PlacedSetting) -> tuple[Any, Any]:
    """Returns the type and the default as typer wants them: an enum for words, a list for several values."""
    default: Any = inspect.Parameter.empty if one.default is MISSING else one.given(one.default)
    if one.setting.choices:
        words: Any = StrEnum("Words", {word: word for word in one.setting.choices})  # type: ignore[misc]
        return words, default if one.default is MISSING else words(default)
    if get_origin(one.kind) is tuple:
        several: Any = list[one.type]  # type: ignore[name-defined]
        return several | None, list(default) or None
    return one.kind, default


def _help(one: PlacedSetting) -> str:
    return f"{one.help} Allowed is {one.range}." if one.range else one.help


def _keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


# ---- values, when the command is called


@dataclass(frozen=True, slots=True)
class _ConfigFileReader:
    """Puts a file's values beneath those of the command line and the environment, before those are looked at.

    Attributes:
        described: The option that names the file.
        settings: All settings of the command.
    """

    described: ConfigFile
    settings: tuple[PlacedSetting, ...]

    def read(self, context: typer.Context, file: Path | None) -> Path | None:
        """Reads the file, if there is one, and returns its name."""
        if file is None:
            return None
        try:
            values = read_config_file(file, self.described, self.settings)
        except SettingRefused as refusal:
            _end(context, refusal)
        context.default_map = self._beside(context.default_map or {}, values)
        context.meta[_FILES] = self._beside(context.meta.get(_FILES, {}), dict.fromkeys(values, file))
        return file

    def _beside(self, before: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """Returns both; a file of the process's own wins over one that it shares, in whatever order they are read."""
        return {**new, **before} if self.described.is_shared else {**before, **new}


def _sourced(context: typer.Context, one: PlacedSetting, value: Any) -> Sourced:
    source = context.get_parameter_source(one.key)
    words = {
        "COMMANDLINE": "command line",
        "ENVIRONMENT": f"environment {one.environment}",
        "DEFAULT_MAP": f"file {context.meta.get(_FILES, {}).get(one.key)}",
    }
    given = value.value if one.setting.choices and isinstance(value, Enum) else value
    return Sourced(one, given, words.get(source.name if source is not None else "", "default"))


def _refuse_what_is_not_allowed(sourced: Iterable[Sourced]) -> None:
    for one in sourced:
        where = f" from the {one.source}" if one.source.startswith("environment") else ""
        if refusal := one.setting.refusal(one.value, where):
            raise SettingRefused(f"{one.setting.option}: {refusal}")


def _table(sourced: Iterable[Sourced]) -> str:
    lines = [("setting", "value", "from"), *(one.line for one in sourced if not one.setting.setting.hidden)]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    return "\n".join(f"{option:{widths[0]}}  {value:{widths[1]}}  {source}" for option, value, source in lines)


def _end(context: typer.Context, refusal: SettingRefused) -> NoReturn:
    typer.echo(f"{context.find_root().info_name}: {refusal}", err=True)
    raise typer.Exit(EXIT_REFUSED)
