"""Warming up leaves nothing behind and measures every kind of work."""

import os
import subprocess
import sys

import pytest
import torch

from gpu_worker.execution.runner import Runner
from gpu_worker.startup.warmup import state_bytes, warm_up
from tests.support.worker.worker_driver import loaded


def test_warming_up_measures_prompts_and_tokens_and_leaves_the_cache_empty() -> None:
    runner = Runner(loaded(), num_blocks=80, block_size=4, num_host_blocks=0)
    timings = warm_up(runner, range(70))
    assert {timing.attention_tokens for timing in timings} == {3 * tokens for tokens in (1, 8, 64, 256)}
    for timing in timings:
        assert min(timing.attention_ns, timing.expert_ns, timing.head_ns) > 0
        assert timing.expert_tokens == 2 * (timing.attention_tokens * 2 // 3 + 1)  # the last layer: what the head reads
    runner.cache.check_integrity()
    assert runner.cache.blocks.num_free_blocks == 80


def test_shapes_that_do_not_fit_are_left_out() -> None:
    runner = Runner(loaded(), num_blocks=8, block_size=4, num_host_blocks=0)
    assert {timing.attention_tokens for timing in warm_up(runner, range(8))} == {3, 24}


@pytest.mark.parametrize(("family", "has_states"), [("mixtral", False), ("qwen3_next", True), ("jamba", True)])
def test_what_a_sequence_keeps_besides_its_rows_is_measured_and_let_go(family: str, has_states: bool) -> None:
    runner = Runner(loaded(family), 8, 4, 0)
    with torch.inference_mode():
        assert (state_bytes(runner, range(2)) > 0) is has_states
    assert runner.cache.state_bytes == 0
    assert runner.cache.blocks.num_free_blocks == 8


_COUNT_PAGES_OF_A_STEP = """
import resource, sys, torch
from gpu_worker.startup.warmup import touch_memory
if sys.argv[1] == "touched":
    touch_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
held = [torch.ones(1 << 20) for _ in range(16)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the pages that Linux gives to glibc")
def test_a_step_after_warming_up_finds_pages_for_what_it_allocates() -> None:
    keeping = "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=8589934592"
    num_pages = {}
    for when in ("touched", "untouched"):
        command = [sys.executable, "-c", _COUNT_PAGES_OF_A_STEP, when]
        environment = {**os.environ, "GLIBC_TUNABLES": keeping}
        num_pages[when] = int(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert num_pages["untouched"] > 10 * num_pages["touched"]
