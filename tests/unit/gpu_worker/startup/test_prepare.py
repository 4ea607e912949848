"""A loaded model is made ready with as much cache as its settings and its layers say."""

from typing import Any

import pytest
from qllm.settings import SettingRefused

from gpu_worker.settings import WorkerConfig
from gpu_worker.startup import prepare
from gpu_worker.startup.prepare import ReadyWorker, make_ready
from tests.support.worker.worker_driver import loaded


@pytest.fixture(autouse=True)
def untouched_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the heap as small as it is."""
    monkeypatch.setattr(prepare, "touch_memory", lambda: None)


def _ready(family: str = "mixtral", **settings: Any) -> ReadyWorker:
    return make_ready(WorkerConfig(model="tiny", control_endpoint="ipc:///tmp/x", **settings), loaded(family))


def test_a_size_is_filled_with_blocks_and_one_that_stands_for_nobody() -> None:
    worker = _ready(kv_memory="1MiB")
    cache = worker.executor._runner.cache
    assert worker.hello.model.num_blocks == cache.num_blocks == (1 << 20) // cache.block_bytes
    assert cache.device_bytes == (cache.num_blocks + 1) * cache.block_bytes


def test_by_default_a_tiny_model_takes_what_two_hundred_and_fifty_six_long_texts_fill() -> None:
    assert _ready(block_size=64).hello.model.num_blocks == 256 * 512 // 64


def test_a_number_of_blocks_goes_over_any_size() -> None:
    assert _ready(num_blocks=7, kv_memory="4096TiB").hello.model.num_blocks == 7


def test_more_blocks_than_are_free_are_refused() -> None:
    with pytest.raises(SettingRefused, match="--num-blocks: got 16777216, which are 13194139533312 bytes, "):
        _ready(num_blocks=1 << 24, block_size=1024)


def test_memory_for_less_than_a_block_is_refused() -> None:
    with pytest.raises(SettingRefused, match="--kv-memory: 524288 bytes are less than one block of 786432 bytes"):
        _ready(kv_memory="0.5MiB", block_size=1024)


def test_a_model_without_states_says_how_large_a_block_is_and_limits_no_sequences() -> None:
    worker = _ready(num_blocks=7)
    model = worker.hello.model
    assert model.block_bytes == worker.executor._runner.cache.block_bytes == 16 * 3 * 2 * 2 * 16 * 4
    assert (model.state_bytes, model.num_states, model.no_sharing_reason) == (0, 0, "")


def test_states_and_blocks_go_into_the_memory_together() -> None:
    model = _ready("qwen3_next", kv_memory="1MiB").hello.model
    assert model.no_sharing_reason == "layers 0, 1, 2 keep a state that is not K/V"
    each = 2 * model.state_bytes + 512 // 16 * model.block_bytes
    assert model.num_states == (1 << 20) // each > 1
    assert model.num_blocks == ((1 << 20) - model.num_states * 2 * model.state_bytes) // model.block_bytes


def test_beside_a_number_of_blocks_as_many_states_are_allowed_as_these_can_have() -> None:
    assert _ready("qwen3_next", num_blocks=7).hello.model.num_states == 7
