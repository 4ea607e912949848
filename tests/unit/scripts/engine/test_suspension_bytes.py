"""What a stopped pass holds is measured, and the formula for models that are too large to run agrees with it."""

from collections.abc import Iterator

import pytest
import torch

from gpu_worker.model.loader import adopt_model
from scripts.engine.suspension_bytes import MIXTRAL_8X7B, Widths, measure
from tests.support.models.families import random_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("num_tokens", [5, 64, 200])
def test_the_formula_is_what_a_pass_of_mixtral_s_kind_holds(num_tokens: int) -> None:
    torch.manual_seed(0)
    loaded = adopt_model(random_model("mixtral"), name="mixtral")
    config = loaded.model.config
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    widths = Widths(
        config.hidden_size,
        config.num_experts_per_tok,
        config.num_hidden_layers,
        config.num_key_value_heads * head_dim,
        head_dim,
        number_bytes=4,
    )
    held = measure(loaded, num_tokens)
    assert held.at_layer == widths.at_layer
    assert held.at_experts == widths.at_experts
    assert widths.at_experts < held.most <= widths.most(num_tokens)
    assert held.kv_bytes == widths.kv_bytes


def test_mixtral_s_numbers_are_those_of_its_widths() -> None:
    assert MIXTRAL_8X7B.kv_bytes == 128 * 1024
    assert MIXTRAL_8X7B.at_layer == 2 * 4096 + 512 + 16
    assert MIXTRAL_8X7B.at_experts == MIXTRAL_8X7B.at_layer + 2 * 4096 + 48 + 4 * 4096
    assert MIXTRAL_8X7B.most(256) == MIXTRAL_8X7B.at_experts + 2 * 4096
