"""What a model keeps of a sequence is measured: in blocks, besides for each token, and besides in all."""

import pytest

from gpu_worker.execution.runner import Runner
from gpu_worker.model.loader import adopt_model
from gpu_worker.startup.measuring import measure_kept
from gpu_worker.startup.sizing import Kept
from gpu_worker.startup.warmup import state_bytes
from tests.support.models.families import random_model
from tests.support.worker.worker_driver import loaded

BLOCK_BYTES = 16 * 3 * 2 * 2 * 16 * 4  # of 16 tokens: 3 layers, K and V, 2 heads of 16


def _states(family: str, *lengths: int) -> list[int]:
    runner = Runner(loaded(family), 32, 16, 0)
    return [state_bytes(runner, range(32), length) for length in lengths]


def test_where_layers_keep_rows_alone_there_is_nothing_besides() -> None:
    assert measure_kept(loaded("mixtral"), 16) == Kept(BLOCK_BYTES, BLOCK_BYTES)


def test_a_row_is_as_wide_as_what_is_kept_of_a_token() -> None:
    of_two_widths = adopt_model(random_model("mimo_v2_flash", v_head_dim=8), name="of two widths")
    heads = 2 + 4 + 4  # of K and V, in its three layers
    assert measure_kept(of_two_widths, 1).row_bytes == heads * (16 + 8) * 4
    assert measure_kept(loaded("deepseek_v3"), 1).row_bytes == 3 * (32 + 8) * 4  # latents, and what is rotated
    assert measure_kept(loaded("glm_moe_dsa"), 1).row_bytes == 3 * (32 + 8 + 16) * 4  # and an indexer's key


@pytest.mark.parametrize("family", ["jamba", "qwen3_next", "lfm2_moe", "granitemoehybrid", "minimax", "zaya"])
def test_a_state_has_one_size_however_long_the_text(family: str) -> None:
    kept = measure_kept(loaded(family), 16)
    assert kept.grown_bytes == 0
    assert set(_states(family, 5, 16, 131)) == {kept.state_bytes}


def test_a_memory_of_a_layer_s_own_is_told_apart_in_what_grows_and_what_does_not() -> None:
    kept = measure_kept(loaded("deepseek_v4"), 16)
    assert kept.grown_bytes > 0
    for length, measured in zip((200, 383, 447), _states("deepseek_v4", 200, 383, 447), strict=True):
        counted = kept.state_bytes + length * kept.grown_bytes // 16
        assert measured <= counted < 1.3 * measured
