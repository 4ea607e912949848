"""Attention with every score laid out is the fused kernel's where that can compute it, and does as named where not."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gpu_worker.attention.scores import attend_by_scores

HEADS, KV_HEADS, NEW, ROWS, WIDTH = 6, 2, 3, 7, 4
SCALE = 0.3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    return draw(HEADS, NEW, WIDTH), draw(KV_HEADS, ROWS, WIDTH, seed=1), draw(KV_HEADS, ROWS, 5, seed=2)


def causal() -> Tensor:
    return torch.ones(NEW, ROWS, dtype=torch.bool).triu(ROWS - NEW + 1)


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return scaled_dot_product_attention(q[None], k[None], v[None], mask, scale=SCALE, enable_gqa=True)[0]


def test_without_anything_it_is_plain_attention(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    torch.testing.assert_close(attend_by_scores(*qkv, SCALE), fused(*qkv, None))


def test_hidden_rows_and_a_bias_are_an_additive_mask(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    bias = draw(HEADS, NEW, ROWS, seed=3)
    expected = fused(*qkv, bias.masked_fill(causal(), float("-inf")))
    torch.testing.assert_close(attend_by_scores(*qkv, SCALE, hidden=causal(), bias=bias), expected)


def test_a_sink_for_each_query_is_one_more_row_that_gives_nothing(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v = qkv
    sinks = draw(HEADS, NEW, seed=4)
    mask = torch.cat([torch.zeros(HEADS, NEW, ROWS), sinks[..., None]], dim=-1)
    more_k = torch.cat([k, torch.zeros(KV_HEADS, 1, WIDTH)], dim=1)
    more_v = torch.cat([v, torch.zeros(KV_HEADS, 1, 5)], dim=1)
    torch.testing.assert_close(attend_by_scores(q, k, v, SCALE, sinks=sinks), fused(q, more_k, more_v, mask))


def test_capped_scores_stay_below_the_cap_and_small_ones_as_they_are(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v = qkv
    torch.testing.assert_close(
        attend_by_scores(q, k, v, SCALE, softcap=1e6), fused(q, k, v, None), rtol=1e-4, atol=1e-4
    )
    alike = v.repeat_interleave(HEADS // KV_HEADS, dim=0).mean(1, keepdim=True).expand(-1, NEW, -1)
    torch.testing.assert_close(attend_by_scores(1e4 * q, k, v, SCALE, softcap=1e-6), alike, rtol=1e-4, atol=1e-4)


def test_batches_are_attended_side_by_side(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v = (torch.stack([rows, rows.flip(1)]) for rows in qkv)
    both = attend_by_scores(q, k, v, SCALE)
    torch.testing.assert_close(both[0], attend_by_scores(*qkv, SCALE))
