"""Reads files that a user names, and says in words why one can't be read."""

from pathlib import Path


class FileRefused(ValueError):
    """A file can't be read, or is no text; the message names it and says why."""


def read_text(path: Path) -> str:
    """Returns the text of a file; raises FileRefused if it has none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileRefused(f"{path}: {why_unread(error)}") from None


def why_unread(error: OSError | UnicodeDecodeError) -> str:
    """Returns in words why a file can't be read."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return f"it cannot be read: {error.strerror or error}"
