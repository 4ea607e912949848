"""Each way to attend over pages gives the same; a kernel that does not, or can't, is found out and left alone."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from gpu_worker.attention import paged as paged_attention
from gpu_worker.attention.paged import Pages, Scores, attend_all
from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.placement import Placement
from gpu_worker.cache.span import Span

BLOCK_SIZE = 4
CPU = torch.device("cpu")
HEADS, KV_HEADS, WIDTH = 6, 2, 8


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """torch.nn.attention.varlen.varlen_attn as its documentation has it, one score after another."""
    assert window_size[1] == 0, "always causal"
    assert num_splits == 1, "the order of sums must not depend on the batch"
    assert all(
        index.dtype == torch.int32 for index in (cu_seq_q, cu_seq_k, seqused_k, block_table) if index is not None
    )
    assert enable_gqa or query.shape[1] == key.shape[-2]
    output = torch.empty_like(query)
    for number in range(len(cu_seq_q) - 1):
        rows = slice(int(cu_seq_q[number]), int(cu_seq_q[number + 1]))
        if block_table is None:
            assert cu_seq_k is not None
            k, v = (lying[int(cu_seq_k[number]) : int(cu_seq_k[number + 1])] for lying in (key, value))
        else:
            assert cu_seq_k is None
            assert seqused_k is not None
            length = int(seqused_k[number])
            k, v = (lying[block_table[number].long()].flatten(0, 1)[:length] for lying in (key, value))
        assert rows.stop - rows.start <= max_q
        assert len(k) <= max_k
        for row in range(rows.start, rows.stop):
            end = len(k) - (rows.stop - row - 1)
            first = 0 if window_size[0] < 0 else max(0, end - 1 - window_size[0])
            for head in range(query.shape[1]):
                group = head * key.shape[-2] // query.shape[1]
                scores = k[first:end, group].float() @ query[row, head].float() * scale
                output[row, head] = (scores.softmax(0)[None] @ v[first:end, group].float())[0]
    return output


def spans_of(*shapes: tuple[int, int], dropped: tuple[int, ...] = ()) -> list[Span]:
    """Sequences of so many new rows and rows in all, over scattered blocks."""
    free = list(range(64))
    Random(0).shuffle(free)
    spans: list[Span] = []
    for number, (num_new, length) in enumerate(shapes):
        table = BlockTable(number, BLOCK_SIZE, CPU)
        table.place([free.pop() for _ in range(-(-length // BLOCK_SIZE))])
        start = spans[-1].stop if spans else 0
        spans.append(Span(table, start, num_new, length - num_new, dropped=number in dropped))
    return spans


def pages() -> Pages:
    random = torch.Generator().manual_seed(1)
    k, v = (torch.randn(64 * BLOCK_SIZE, KV_HEADS, WIDTH, generator=random) for _ in "kv")
    return Pages(k, v, BLOCK_SIZE)


def queries(num_rows: int) -> Tensor:
    return torch.randn(num_rows, HEADS, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def forgotten_ways() -> Iterator[None]:
    paged_attention._way.cache_clear()
    yield
    paged_attention._way.cache_clear()


MIXED = ((5, 5), (1, 18), (3, 11), (1, 1), (1, 6))


@pytest.mark.parametrize("way", [paged_attention._attend_paged, paged_attention._attend_packed])
@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("dropped", [(), (0, 3)])
def test_kernels_by_table_and_over_gathered_rows_give_what_the_padded_way_gives(
    way: Callable[..., Tensor], window: int | None, dropped: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    placement = Placement(spans_of(*MIXED, dropped=dropped), BLOCK_SIZE, CPU)
    scores = Scores(WIDTH**-0.5, window)
    q = queries(sum(span.num_tokens for span in placement.spans))
    expected = paged_attention._attend_padded(q, pages(), placement, scores)
    torch.testing.assert_close(way(q, pages(), placement, scores), expected)


def test_rows_of_dropped_sequences_give_zeros_and_the_others_what_they_give_alone() -> None:
    q = queries(11)
    scores = Scores(WIDTH**-0.5)
    whole = attend_all(q, pages(), Placement(spans_of(*MIXED), BLOCK_SIZE, CPU), scores)
    some = attend_all(q, pages(), Placement(spans_of(*MIXED, dropped=(1, 2)), BLOCK_SIZE, CPU), scores)
    assert not some[5:9].any()
    torch.testing.assert_close(some[:5], whole[:5])
    torch.testing.assert_close(some[9:], whole[9:])


def test_a_sink_takes_weight_and_gives_nothing() -> None:
    placement = Placement(spans_of(*MIXED), BLOCK_SIZE, CPU)
    q = queries(placement.num_rows)
    plain = attend_all(q, pages(), placement, Scores(1.0))
    torch.testing.assert_close(attend_all(q, pages(), placement, Scores(1.0, sinks=torch.full((HEADS,), -1e9))), plain)
    drained = attend_all(q, pages(), placement, Scores(1.0, sinks=torch.full((HEADS,), 1e9)))
    assert drained.abs().max() < 1e-6


def _tried(kernel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Why the ways by table and over gathered rows can't be taken with a kernel."""
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    heads, kv_heads = torch.Size((HEADS, WIDTH)), torch.Size((KV_HEADS, WIDTH))
    by_table, gathered = (
        paged_attention._try(way, CPU, torch.float32, heads, kv_heads, BLOCK_SIZE)
        for way in (paged_attention._attend_paged, paged_attention._attend_packed)
    )
    return by_table, gathered


def test_a_kernel_that_does_as_documented_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _tried(varlen_attn, monkeypatch) == ("", "")


def test_a_kernel_that_refuses_tables_is_given_gathered_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*args: Any, block_table: Tensor | None = None, **kwargs: Any) -> Tensor:
        if block_table is not None:
            raise RuntimeError("block_table needs FA3\nand more")
        return varlen_attn(*args, **kwargs)

    assert _tried(refusing, monkeypatch) == ("RuntimeError: block_table needs FA3", "")


def test_a_kernel_that_gives_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def looking_ahead(*args: Any, window_size: tuple[int, int], **kwargs: Any) -> Tensor:
        return varlen_attn(*args, window_size=(3, 0), **kwargs)

    assert all(reason.startswith("off by") for reason in _tried(looking_ahead, monkeypatch))
