"""A layer with a memory of its own is a state: copied where states are, so a failed iteration has changed nothing."""

import torch

from gpu_worker.cache.own_layer import OwnLayer, OwnLayers
from tests.support.models.families import tiny_config
from tests.support.worker.worker_driver import Driver, loaded, random_prompts

CPU = torch.device("cpu")


def test_layers_are_a_family_s_own_if_their_cache_comes_with_its_modeling_code() -> None:
    loaded("deepseek_v4")  # its modeling code registers them
    assert OwnLayers(tiny_config("deepseek_v4")).numbers == {1, 2, 3}
    assert OwnLayers(tiny_config("mixtral")).numbers == frozenset()


def test_a_copy_shares_nothing_that_can_change() -> None:
    loaded("deepseek_v4")
    memory = OwnLayers(tiny_config("deepseek_v4")).new(1)
    rows = torch.randn(1, 1, 3, 16)
    memory.layer.update(rows, rows)
    memory.layer.update_compressor_states("compressor", torch.ones(1, 2, 16))
    copy = memory.to(CPU)
    memory.layer.update_compressor_states("compressor", torch.ones(1, 1, 16))
    memory.layer.keys.zero_()
    assert copy.layer.entry_count["compressor"] == 2
    assert copy.layer.compressed_kv["compressor"].shape[1] == 2
    assert copy.layer.keys.any()


def test_bytes_count_each_tensor_once() -> None:
    class Layer:
        def __init__(self) -> None:
            self.keys = torch.zeros(4)
            self.values = self.keys
            self.kept = {"a": torch.zeros(2), "b": None}
            self.others = [torch.zeros(1)]
            self.count = 3

    assert OwnLayer(Layer()).nbytes == (4 + 2 + 1) * 4


def test_an_iteration_that_is_dropped_half_way_leaves_the_memory_as_it_was() -> None:
    prompt = random_prompts((21,))[0]
    outputs = []
    for is_disturbed in (False, True):
        driver = Driver(loaded("deepseek_v4"))
        story = driver.add(prompt, 6)
        driver.advance(driver.start(story, chunk=15))
        if is_disturbed:
            batch_id = driver.start(story)
            driver.advance(batch_id, until=driver.next_cursor(driver.next_cursor(driver.cursor(batch_id))))
            driver.drop_batch(batch_id)
        driver.finish(story)
        outputs.append(story.token_ids)
    assert outputs[0] == outputs[1]
