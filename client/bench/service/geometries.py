"""Geometries that the paper's experiment runs at, as a model's configuration: no weights, no download, no torch."""

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path


class Geometry(StrEnum):
    """A model's shape."""

    MIXTRAL_8X7B = "mixtral-8x7b"
    MIXTRAL_8X1B = "mixtral-8x1b"
    TINY = "tiny"


_MIXTRAL: dict[str, object] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_act": "silu",
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1e6,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "eos_token_id": None,
}
# mistralai/Mixtral-8x7B-v0.1's config.json; one of a sixth of its weights, which a card of 24 GB
# holds; one that a laptop runs.
_SIZES: Mapping[Geometry, dict[str, object]] = {
    Geometry.MIXTRAL_8X7B: {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "vocab_size": 32000,
        "dtype": "bfloat16",
    },
    Geometry.MIXTRAL_8X1B: {
        "hidden_size": 2048,
        "intermediate_size": 7168,
        "num_hidden_layers": 22,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "vocab_size": 32000,
        "dtype": "bfloat16",
    },
    Geometry.TINY: {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16384,
        "vocab_size": 1024,
        "dtype": "float32",
    },
}


def write_geometry(geometry: Geometry, directory: Path) -> None:
    """Writes config.json, which is all that a worker with random weights needs."""
    (directory / "config.json").write_text(json.dumps(_MIXTRAL | _SIZES[geometry], indent=1))
