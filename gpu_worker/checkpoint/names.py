"""Decides which names a model answers to, from where it was loaded or from what was asked for."""

import re
from collections.abc import Sequence
from pathlib import Path

_SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/[^/]+$")  # the layout of Hugging Face's cache


def served_names(source: str, chosen: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the names of a model, each once; answers carry the first.

    Args:
        source: Where the model is from. `org/name` on the hub answers to that and to `name`, also where it is given as
            the snapshot folder that was downloaded; another folder to its own name, and to the path as it was given.
        chosen: Names to be served under instead, each perhaps several with commas between them, as in the environment.
    """
    wanted = [name.strip() for names in chosen for name in names.split(",")]
    return tuple(dict.fromkeys(filter(None, wanted))) or tuple(dict.fromkeys(_default_names(source)))


def _default_names(source: str) -> tuple[str, ...]:
    directory = Path(source).resolve()
    found = _SNAPSHOT.search(directory.as_posix())
    if found or not directory.is_dir():
        hub_id = found[1].replace("--", "/", 1) if found else source
        return hub_id, hub_id.rpartition("/")[2]
    return directory.name or source, source
