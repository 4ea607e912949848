"""Workers without a model, for tests of what surrounds one: they start in a second where a real one takes ten."""

import json
from pathlib import Path

NUM_LAYERS, NUM_EXPERTS, UNIT_US = 8, 8, 2000
SLOW_TABLE = {
    "name": "slow",
    "source": "a test",
    "num_layers": NUM_LAYERS,
    "num_experts": NUM_EXPERTS,
    "num_experts_per_token": 2,
    "max_model_len": 4096,
    "num_blocks": 512,
    "num_host_blocks": 2,
    "attention_us": {"fixed": UNIT_US, "per_token": 0, "per_pair": 0},
    "expert_us": {"fixed": UNIT_US, "per_token": 0},
    "head_us": {"fixed": 30, "per_row": 3},
}
# Options of a worker whose iterations take no time.
INSTANT = ("--simulated", "zero")


def slow_worker(directory: Path) -> tuple[str, ...]:
    """Returns the options of a worker with 150 ms iterations, in 2 ms units; writes its table to the directory."""
    table = directory / "slow.json"
    table.write_text(json.dumps(SLOW_TABLE))
    return ("--simulated", str(table))
