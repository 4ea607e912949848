"""What the commands share: help readable at any width, choices in either case, --version, and output that fails.

Rich cuts the names of options where a line's other columns leave no room: a long choice of words in the column of
types, or the environment variable's name in that of texts. So choices stand in the text, where they wrap, and the
variables, which all follow one rule, are not repeated for each option. It keeps the line breaks of all paragraphs but
the first, which are those of the source: they are taken out, so that a paragraph fills the terminal's lines whatever
its width.
"""

import enum
import errno
import functools
import inspect
import os
import sys
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandInfo, OptionInfo, TyperInfo

from qllm.version import __version__

EXIT_FAILED = 1
_VERSION = "version"
_KINDS = {"int": "an integer", "float": "a number", "bool": "true or false"}
# What writing to a pipe, a file or a device may end with.
_OUTPUT_ERRORS = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def run_command(app: typer.Typer, name: str) -> None:
    """Runs what the process's arguments say and ends the process; says in one line that output cannot be written.

    Args:
        app: The program, to which --version is added, and to its commands.
        name: What it is called.
    """
    _add_version(app, name)
    _improve(app)
    try:
        try:
            app(prog_name=name)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in _OUTPUT_ERRORS:
            raise
        _end_without_output(name, error)


def _add_version(app: typer.Typer, name: str, *, is_shown: bool = True) -> None:
    """Gives the program and all its commands the option --version, which goes before all else that is asked.

    Args:
        app: The program, or a group of its commands.
        name: What the program is called.
        is_shown: Whether help lists the option; that of commands does not.
    """
    whole = app.registered_callback or app.registered_commands[0]
    _say_version(whole, name, is_shown=is_shown)
    for command in app.registered_commands:
        if command is not whole:
            _say_version(command, name, is_shown=False)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        _add_version(group.typer_instance, name, is_shown=False)


def _say_version(part: CommandInfo | TyperInfo, name: str, *, is_shown: bool) -> None:
    """Gives one command the option."""
    command = part.callback
    assert command is not None
    signature = inspect.signature(command, eval_str=True)
    if _VERSION in signature.parameters:
        return

    def say(is_asked: bool) -> None:
        if is_asked:
            typer.echo(f"{name} {__version__}")
            raise typer.Exit

    @functools.wraps(command)
    def without_version(**given: Any) -> None:
        del given[_VERSION]
        command(**given)

    help_text = "Says the version, and does nothing else."
    option = typer.Option("--version", is_eager=True, callback=say, help=help_text, hidden=not is_shown)
    parameter = inspect.Parameter(
        _VERSION, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
    )
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
    without_version.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*parameters, parameter]
    )
    without_version.__annotations__ = {one.name: one.annotation for one in (*parameters, parameter)} | {"return": None}
    part.callback = without_version


class _InWords:
    """Has a command say what is wrong with an option's value in its own words."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        try:
            parsed: list[str] = super().parse_args(context, arguments)  # type: ignore[misc]
        except typer.BadParameter as refusal:
            refusal.message = _in_words(refusal)
            raise
        return parsed


class _Command(_InWords, TyperCommand):
    pass


class _Group(_InWords, TyperGroup):
    pass


def _in_words(refusal: typer.BadParameter) -> str:
    """Returns what is wrong with a value; typer's newer versions say it in those of a library that they stand on."""
    errors = getattr(refusal.__cause__, "errors", None)
    if errors is None:
        return refusal.message
    first = errors()[0]
    kind = _KINDS.get(first["type"].partition("_")[0])
    return f"got {first['input']!r}, allowed is {kind}" if kind else refusal.message.removeprefix("Value error, ")


def _improve(app: typer.Typer) -> None:
    if app.registered_callback is not None:
        app.registered_callback.cls = _Group
    for one in app.registered_commands:
        one.cls = _Command
    for command in (*app.registered_commands, app.registered_callback):
        if command is not None and command.callback is not None:
            command.help = _flowing(command.help or inspect.getdoc(command.callback) or "") or None
            for parameter in inspect.signature(command.callback).parameters.values():
                _improve_option(parameter.annotation)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _improve(group.typer_instance)


def _flowing(text: str) -> str:
    """Returns a help text with one line for each paragraph; an example is a paragraph, and keeps its indentation."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def _improve_option(annotation: Any) -> None:
    kind, *details = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    for option in details:
        if isinstance(option, OptionInfo) and option.case_sensitive:  # else it was improved before
            option.case_sensitive = False
            option.show_envvar = False
            choices = _choices(kind)
            if choices:
                option.metavar = option.metavar or "NAME"
                option.help = f"{option.help or ''} One of: {', '.join(choices)}.".strip()


def _choices(kind: Any) -> list[str]:
    """Returns the words that an option takes, which may be optional or a list; none if it is of another type."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(member.value) for member in kind]
    return [choice for part in get_args(kind) for choice in _choices(part)]


def _end_without_output(name: str, error: OSError) -> None:
    """Ends the process; a reader who left is told nothing."""
    if error.errno != errno.EPIPE:
        sys.stderr.write(f"{name}: the output cannot be written: {error.strerror}\n")
    # What is buffered cannot be flushed at exit either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(EXIT_FAILED)
