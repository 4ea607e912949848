"""A single query's attention is the same wherever its sequence's rows lie, and copies none that lie in a few runs."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpu_worker.attention import choice as attention_choice
from gpu_worker.attention.cpu import Runs, attend_fused, attend_fused_over, attend_one_by_one
from gpu_worker.attention.scores import attend_by_scores
from gpu_worker.cache.unified import UnifiedDynamicCache
from gpu_worker.model.loader import adopt_model
from tests.support.models.families import generated, random_model
from tests.support.worker.worker_driver import Driver, Story, loaded, random_prompts

SCALE = 0.2
HEADS, KV_HEADS = 6, 2
SPLITS = st.lists(st.integers(1, 40), min_size=1, max_size=5)
TYPES = st.sampled_from([(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])


def _sequence(sizes: list[int], widths: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Runs, Tensor, Tensor]:
    """A query (H, 1, width), and rows in runs of these sizes and in one piece."""
    generator = torch.Generator().manual_seed(sum(sizes))
    q = torch.randn(HEADS, 1, widths[0], generator=generator).to(dtype)
    k, v = (torch.randn(KV_HEADS, sum(sizes), width, generator=generator).to(dtype) for width in widths)
    return q, list(zip(k.split(sizes, dim=1), v.split(sizes, dim=1), strict=True)), k, v


@given(SPLITS, TYPES)
def test_products_over_runs_give_what_they_give_over_one(sizes: list[int], kind: tuple[torch.dtype, float]) -> None:
    q, runs, k, v = _sequence(sizes, (24, 16), kind[0])
    attended = attend_one_by_one(q.transpose(0, 1), [runs], KV_HEADS, SCALE)
    expected = attend_one_by_one(q.transpose(0, 1), [[(k, v)]], KV_HEADS, SCALE)
    assert attended.dtype is kind[0]
    torch.testing.assert_close(attended, expected, rtol=0, atol=kind[1])


@given(SPLITS, TYPES)
def test_the_fused_kernel_over_runs_gives_what_it_gives_over_one(
    sizes: list[int], kind: tuple[torch.dtype, float]
) -> None:
    q, runs, k, v = _sequence(sizes, (16, 16), kind[0])
    attended = attend_fused_over(q, runs, SCALE)
    assert attended.dtype is kind[0]
    torch.testing.assert_close(attended, attend_fused(q, k, v, SCALE), rtol=0, atol=kind[1])


@given(SPLITS)
def test_a_sink_takes_its_weight_once_however_many_runs_there_are(sizes: list[int]) -> None:
    q, runs, k, v = _sequence(sizes, (16, 16), torch.float32)
    sinks = torch.linspace(-2, 4, HEADS)[:, None]
    expected = attend_by_scores(q, k, v, SCALE, sinks=sinks)
    torch.testing.assert_close(attend_fused_over(q, runs, SCALE, sinks), expected, rtol=0, atol=1e-5)


@pytest.fixture(params=[True, False], ids=["products", "fused"])
def arithmetic(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Has single queries go one way, however few rows they see."""
    monkeypatch.setattr(attention_choice, "_LEAST_ROWS", 1)
    monkeypatch.setattr(attention_choice, "_products_win", lambda *_: request.param)


def _over_runs(model: Any, prompt: tuple[int, ...]) -> tuple[Driver, Story]:
    """A prompt that was run into two and a half runs of blocks of four, and decodes on into more."""
    driver = Driver(model)
    driver.free = [40, 41, 42, 5, 6, 7, 30, 31, 32, *range(10, 20)]
    story = driver.add(prompt, 8)
    driver.advance(driver.start(story))
    return driver, story


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3", "glm4_moe"])
@pytest.mark.usefixtures("arithmetic")
def test_tokens_over_a_few_runs_are_those_of_generate(family: str) -> None:
    prompts = random_prompts((30,))
    driver, story = _over_runs(loaded(family), prompts[0])
    driver.finish(story)
    assert story.token_ids == generated(family, prompts, 8)[0]


@pytest.mark.usefixtures("arithmetic")
def test_a_sliding_window_sees_the_runs_that_it_reaches() -> None:
    (prompt,) = random_prompts((30,))
    ids = torch.tensor([prompt])
    model = random_model("mixtral", sliding_window=16)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    driver, story = _over_runs(adopt_model(random_model("mixtral", sliding_window=16), name="windowed"), prompt)
    driver.finish(story)
    assert story.token_ids == tuple(output[0, 30:].tolist())


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
@pytest.mark.usefixtures("arithmetic")
def test_a_decode_over_a_few_runs_gathers_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, story = _over_runs(loaded(family), random_prompts((30,))[0])

    def gather(*_: object, **__: object) -> None:
        raise AssertionError("rows were gathered")

    monkeypatch.setattr(UnifiedDynamicCache, "read", gather)
    driver.finish(story)
    assert len(story.token_ids) == 8
