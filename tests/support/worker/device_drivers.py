"""Drivers of a model on a CUDA device, and how they are kept from waiting for it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import torch

from gpu_worker.model.loader import LoadedModel
from gpu_worker.replay.recording import record_decodes
from gpu_worker.replay.segments import plan_segments
from tests.support.worker.worker_driver import Driver, random_prompts

PROMPT, OTHER = random_prompts((600, 80))
RECORDED = (1, 2, 4)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raises at any operation that makes the host wait for the device."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this is a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def driver_of(model: LoadedModel, seed: int | None = None) -> Driver:
    """A driver with a cache of 8,192 rows, handed out in random order if there is a seed."""
    return Driver(model, num_blocks=512, block_size=16, rng=None if seed is None else Random(seed))


def with_recordings(model: LoadedModel, layers_each: float = 2) -> Driver:
    """The same, which replays decodes of up to four sequences from CUDA graphs."""
    driver = driver_of(model)
    story = driver.add(OTHER, 1)
    driver.finish(story)
    driver.drop(story)
    segments = plan_segments(model.facts.num_layers, 1.0, layers_each)
    recordings = record_decodes(model, driver.runner.cache, RECORDED, segments)
    assert [recording.placement.num_rows for recording in recordings] == list(RECORDED), "see the log for why"
    driver.runner.record_decodes(recordings, 0.7)
    return driver
