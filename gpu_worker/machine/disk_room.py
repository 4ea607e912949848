"""Says what is in the way of a file that is to be made in a directory, before anything heavy is loaded for it."""

import os
import shutil
from pathlib import Path


def why_no_room(directory: Path, num_bytes: int) -> str | None:
    """Returns what is in the way of a file of so many bytes in a directory; None if nothing is."""
    if not directory.is_dir():
        return "it is not a directory" if directory.exists() else "it does not exist"
    if not os.access(directory, os.W_OK | os.X_OK):
        return "it may not be written to"
    free_bytes = shutil.disk_usage(directory).free
    return f"{free_bytes} bytes are free, {num_bytes} are needed" if free_bytes < num_bytes else None
