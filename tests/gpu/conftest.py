"""A model large enough that a device runs behind the host, made at random, for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig

from gpu_worker.model.loader import LoadedModel, adopt_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets libraries warn: machines with a device bring their own, whose warnings say nothing of what is tested."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(autouse=True)
def engine_thread() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def mixtral() -> LoadedModel:
    """1.5 billion weights in bfloat16: a layer's experts take a device a millisecond for 2,000 tokens."""
    config = MixtralConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=3584,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=128,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    return adopt_model(model, name="mixtral")
