"""Writes a file that is whole at any time: beside it first, then renamed, so that a kill leaves the old one or the new.

A kill while it is written leaves FILE.partial too, which the next writing takes.
"""

from contextlib import suppress
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Replaces the file's content; raises OSError when it can't be written, and the file is then as it was."""
    partial = _partial(file)
    partial.write_text(text)
    partial.replace(file)


def why_not_writable(file: Path) -> str | None:
    """Tries whether the file could be written, and returns what is in the way; None if nothing is."""
    if file.is_dir():
        return "it is a directory"
    try:
        _partial(file).touch()
    except OSError as error:
        return error.strerror or str(error)
    with suppress(OSError):
        _partial(file).unlink()
    return None


def _partial(file: Path) -> Path:
    return file.with_name(f"{file.name}.partial")
