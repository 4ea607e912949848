"""What stays the same at each token lies where the logits are, and the wait for a structure is no work of the head."""

import time

import pytest
import torch

from gpu_worker.contract.commands import Sampling
from gpu_worker.sampling.draw import Draw
from gpu_worker.sampling.rules import Rules
from gpu_worker.sampling.ruling import ruled
from tests.support.worker.worker_driver import Driver, loaded, random_prompts

SAMPLING = Sampling(logit_bias=((3, 2.0), (5, -1.0)), allowed_token_ids=(3, 4, 5, 6), bad_words=((4,), (1, 2)))


def test_constant_rules_lie_on_the_device_from_the_start() -> None:
    rules = Rules(SAMPLING, device=torch.device("meta"))
    assert {tensor.device.type for tensor in (rules.allowed_ids, rules.shifted_ids, rules.shifts)} == {"meta"}


def test_no_token_moves_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = Rules(SAMPLING)
    moved: list[int] = []
    monkeypatch.setattr(
        "gpu_worker.sampling.ruling.to_device", lambda tensor, _: moved.append(tensor.numel()) or tensor
    )
    logits = ruled(torch.zeros(2, 8), [Draw(SAMPLING, 0, rules=rules), Draw(Sampling(), 0)])
    assert logits[0].tolist() == [float("-inf")] * 3 + [2.0, float("-inf"), -1.0, 0.0, float("-inf")]
    assert logits[1].tolist() == [0.0] * 8
    assert moved == [3]  # in which rows what is added goes, and nothing else


class SlowRules(Rules):
    def get_ready(self) -> None:
        time.sleep(0.5)


def test_the_wait_for_what_may_come_next_is_no_time_of_the_head() -> None:
    driver = Driver(loaded())
    story = driver.add(random_prompts((5,))[0], 1)
    driver.runner._sequences[story.seq_id].rules = SlowRules(Sampling(logit_bias=((3, 200.0),)))
    began_s = time.perf_counter()
    outcome = driver.advance(driver.start(story))
    assert time.perf_counter() - began_s >= 0.5
    assert outcome.timing.head_ns < 0.4e9
    assert story.token_ids == (3,)
