"""Finds the cost table that `--simulated` names: one that is shipped, or a JSON file."""

import json
from pathlib import Path

from qllm.cost_table import CostTable, parse_cost_table, shipped_tables
from qllm.settings import SettingRefused


def load_cost_table(source: str) -> CostTable:
    """Reads a table from a JSON file, or one that is shipped by its name.

    Raises:
        SettingRefused: There is none, or it holds something that is not allowed.
    """
    shipped = shipped_tables()
    if source in shipped:
        return parse_cost_table(shipped[source])
    try:
        text = Path(source).read_text()
    except (OSError, ValueError) as error:
        allowed = f"a JSON file, or {', '.join(shipped)}"
        raise SettingRefused(f"--simulated: can't read {source!r} ({error}); allowed is {allowed}") from None
    try:
        return parse_cost_table(json.loads(text))
    except ValueError as error:
        raise SettingRefused(f"--simulated: {source}: {error}") from None
