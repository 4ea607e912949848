"""Attention in tiles, and with single queries, is what torch's own attention computes, and the faster is chosen."""

from collections.abc import Iterator
from random import Random

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gpu_worker.attention import choice as attention_choice
from gpu_worker.attention import cpu as cpu_attention
from gpu_worker.attention.choice import products_pay
from gpu_worker.attention.cpu import attend_fused, attend_in_tiles, attend_one_by_one
from gpu_worker.model.loader import adopt_model
from tests.support.models.families import generated, random_model
from tests.support.worker.worker_driver import Driver, loaded, random_prompts

SCALE = 0.2
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def _sequence(
    n: int, rows: int, heads: tuple[int, int], widths: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (H, n, width) that lie as a model gives them, K and V (H_kv, rows, width) that lie as in the cache."""
    generator = torch.Generator().manual_seed(n * rows)
    (H, H_kv), (width, width_v) = heads, widths  # noqa: N806
    q = torch.randn(n, H, width, generator=generator).to(dtype).transpose(0, 1)
    k, v = (torch.randn(H_kv, rows + 9, w, generator=generator).to(dtype)[:, 4 : rows + 4] for w in (width, width_v))
    return q, k, v


def _plain(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """The same in float64, with a mask (n, rows) of what is visible."""
    return scaled_dot_product_attention(
        q[None].double(), k[None].double(), v[None].double(), attn_mask=visible, scale=SCALE, enable_gqa=True
    )[0]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("heads", [(8, 4), (4, 4), (6, 1)])
@pytest.mark.parametrize(("n", "rows"), [(2, 2), (5, 40), (128, 128), (129, 200), (300, 300), (300, 431)])
def test_tiles_see_what_is_before_them_and_a_triangle(
    n: int, rows: int, heads: tuple[int, int], dtype: torch.dtype
) -> None:
    q, k, v = _sequence(n, rows, heads, (24, 16), dtype)
    visible = torch.ones(n, rows, dtype=torch.bool).tril(rows - n)
    attended = attend_in_tiles(q, k, v, SCALE, None)
    assert attended.dtype is dtype
    torch.testing.assert_close(attended.double(), _plain(q, k, v, visible), rtol=0, atol=TOLERANCE[dtype])


def test_tiles_take_a_mask_for_what_is_not_causal_alone() -> None:
    n, rows, window = 150, 210, 37
    q, k, v = _sequence(n, rows, (4, 2), (16, 16), torch.float32)
    visible = torch.ones(n, rows, dtype=torch.bool).tril(rows - n).triu(rows - n - window + 1)
    mask = torch.zeros(n, rows).masked_fill_(~visible, float("-inf"))
    attended = attend_in_tiles(q, k, v, SCALE, mask)
    torch.testing.assert_close(attended.double(), _plain(q, k, v, visible), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("heads", [(8, 4), (4, 4), (6, 1)])
def test_single_queries_see_all_rows_of_their_own_sequences(heads: tuple[int, int], dtype: torch.dtype) -> None:
    sequences = [_sequence(1, rows, heads, (24, 16), dtype) for rows in (1, 7, 1000)]
    queries = torch.cat([q.transpose(0, 1) for q, _, _ in sequences])
    attended = attend_one_by_one(queries, ([(k, v)] for _, k, v in sequences), heads[1], SCALE)
    assert attended.dtype is dtype
    for ours, (q, k, v) in zip(attended, sequences, strict=True):
        expected = _plain(q, k, v, torch.ones(1, k.shape[1], dtype=torch.bool))[:, 0]
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_one_query_of_the_fused_kernel_sees_all_rows(dtype: torch.dtype) -> None:
    q, k, v = _sequence(1, 300, (8, 4), (16, 16), dtype)
    expected = _plain(q, k, v, torch.ones(1, 300, dtype=torch.bool))
    attended = attend_fused(q, k, v, SCALE)
    torch.testing.assert_close(attended.double(), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.fixture
def unmeasured() -> Iterator[None]:
    """Has nothing measured before, and nobody later believe what is measured here."""
    attention_choice._products_win.cache_clear()
    yield
    attention_choice._products_win.cache_clear()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, unmeasured: None) -> None:
    """Has products take so many times as long as the fused kernel, as if that were what was measured."""
    monkeypatch.setattr(attention_choice, "least_times_s", lambda ways: [request.param, 1.0])


@pytest.mark.parametrize(("measured", "win"), [(0.7, True), (0.97, False), (1.4, False)], indirect=["measured"])
@pytest.mark.usefixtures("measured")
def test_products_are_chosen_where_they_are_clearly_faster(win: bool) -> None:
    query = torch.ones(8, 300, 64)
    assert products_pay(query, 1, 1000, 4, 64) is win
    assert products_pay(query, 256, 256, 4, 64) is win


@pytest.mark.parametrize("measured", [0.7], indirect=True)
@pytest.mark.usefixtures("measured")
def test_small_shapes_are_left_to_the_fused_kernel() -> None:
    query = torch.ones(8, 300, 64)
    assert not products_pay(query, 1, 20, 4, 64)
    assert not products_pay(query, 80, 80, 4, 64)


@pytest.mark.usefixtures("unmeasured")
def test_either_way_is_measured_with_the_real_operations() -> None:
    query = torch.ones(8, 300, 64)
    assert products_pay(query, 1, 1000, 4, 64) in (True, False)
    assert products_pay(query, 256, 256, 4, 64) in (True, False)
    assert attention_choice._products_win.cache_info().misses == 2


@pytest.mark.usefixtures("unmeasured")
def test_single_queries_are_measured_on_more_rows_than_caches_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[tuple[Tensor, Tensor]]] = []

    def note(_: Tensor, histories: list[list[tuple[Tensor, Tensor]]], *__: object) -> None:
        calls.append([run for runs in histories for run in runs])

    monkeypatch.setattr(attention_choice, "attend_one_by_one", note)
    monkeypatch.setattr(attention_choice, "attend_fused", lambda q, k, v, *_: note(q, [[(k, v)]]))
    products_pay(torch.ones(8, 300, 64), 1, 1000, 4, 64)
    addresses = [k.data_ptr() for histories in calls for k, _ in histories]
    again = next(number for number, address in enumerate(addresses) if address in addresses[:number])
    row_bytes = sum(tensor.nbytes for tensor in calls[0][0])
    assert again * row_bytes >= 100 << 20


@pytest.fixture(params=[True, False], ids=["products", "fused"])
def for_all_shapes(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Has every shape go the way of the large ones, which tiny models never reach, by either arithmetic."""
    monkeypatch.setattr(attention_choice, "_LEAST_ROWS", 1)
    monkeypatch.setattr(attention_choice, "_LEAST_TILED_WORK", 1)
    monkeypatch.setattr(attention_choice, "_products_win", lambda *_: request.param)
    monkeypatch.setattr(cpu_attention, "_TILES", (4, 4))


@pytest.mark.usefixtures("for_all_shapes")
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3", "olmoe"])
@pytest.mark.parametrize("chunk", [10_000, 6])
def test_tokens_are_those_of_generate(family: str, chunk: int) -> None:
    prompts = random_prompts((5, 23, 11))
    driver = Driver(loaded(family), rng=Random(1))
    stories = [driver.add(prompt, 8) for prompt in prompts]
    driver.finish(*stories, chunk=chunk)
    assert tuple(story.token_ids for story in stories) == generated(family, prompts, 8)


@pytest.mark.usefixtures("for_all_shapes")
def test_a_sliding_window_hides_what_it_hides_from_generate() -> None:
    (prompt,) = random_prompts((60,))
    ids = torch.tensor([prompt])
    model = random_model("mixtral", sliding_window=16)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    driver = Driver(adopt_model(random_model("mixtral", sliding_window=16), name="windowed"))
    story = driver.add(prompt, 8)
    driver.finish(story, chunk=24)
    assert story.token_ids == tuple(output[0, 60:].tolist())
