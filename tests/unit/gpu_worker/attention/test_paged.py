"""Each way to attend over pages gives the same; a kernel that does not, or can't, is found out and left alone."""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gpu_worker.attention import paged as paged_attention
from gpu_worker.attention.paged import Pages, Scores, attend_all
from gpu_worker.attention.varlen_kernel import attend_varlen
from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.placement import Placement
from gpu_worker.cache.span import Span
from gpu_worker.cache.static_placement import StaticPlacement

BLOCK_SIZE = 4
CPU = torch.device("cpu")
HEADS, KV_HEADS, WIDTH = 6, 2, 8


OF_2_11 = ("scale", "window_size_left", "window_size_right", "seqused_k", "alibi_slopes")
OF_2_13 = (*OF_2_11, "block_table", "num_splits")


class Operator:
    """torch's operator as its documentation has it, one score after another, with the keywords of some torch."""

    def __init__(self, keywords: tuple[str, ...] = OF_2_13) -> None:
        self._schema = SimpleNamespace(arguments=[SimpleNamespace(name=name) for name in keywords])
        self.keywords: set[str] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        self.keywords |= kwargs.keys()
        assert self.keywords <= {argument.name for argument in self._schema.arguments}
        return (attend_one_by_one(*args, **kwargs), torch.empty(0))


def attend_one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float,
    window_size_left: int,
    window_size_right: int,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int = 1,
) -> Tensor:
    assert window_size_right == 0, "always causal; and what makes FlashAttention 2 sum in one order for single queries"
    assert is_causal is (window_size_left < 0), "as the public function has it"
    assert num_splits == 1, "the order of sums must not depend on the batch"
    assert dropout_p == 0
    assert not return_debug_mask
    assert all(
        index.dtype == torch.int32 for index in (cum_seq_q, cum_seq_k, seqused_k, block_table) if index is not None
    )
    output = torch.empty_like(query)
    for number in range(len(cum_seq_q) - 1):
        rows = slice(int(cum_seq_q[number]), int(cum_seq_q[number + 1]))
        if block_table is None:
            assert cum_seq_k is not None
            k, v = (lying[int(cum_seq_k[number]) : int(cum_seq_k[number + 1])] for lying in (key, value))
        else:
            assert cum_seq_k is None
            assert seqused_k is not None
            k, v = (lying[block_table[number].long()].flatten(0, 1) for lying in (key, value))
        length = len(k) if seqused_k is None else int(seqused_k[number])
        k, v = k[:length], v[:length]
        assert rows.stop - rows.start <= max_q
        assert len(k) <= max_k
        for row in range(rows.start, rows.stop):
            end = len(k) - (rows.stop - row - 1)
            first = 0 if window_size_left < 0 else max(0, end - 1 - window_size_left)
            for head in range(query.shape[1]):
                group = head * key.shape[-2] // query.shape[1]
                scores = k[first:end, group].float() @ query[row, head].float() * scale
                output[row, head] = (scores.softmax(0)[None] @ v[first:end, group].float())[0]
    return output


def use(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_attention, "attend_varlen", partial(attend_varlen, operator=operator))


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
    use(Operator(), monkeypatch)
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


@pytest.mark.parametrize("way", [paged_attention._attend_paged, paged_attention._attend_packed])
@pytest.mark.parametrize("window", [None, 5])
def test_decodes_for_a_graph_get_the_same_from_histories_that_are_filled_up(
    way: Callable[..., Tensor], window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Operator(), monkeypatch)
    static: Any = StaticPlacement(4, 6, BLOCK_SIZE, scratch_block=63, device=CPU)
    decodes = spans_of((1, 18), (1, 5), (1, 1), dropped=(1,))
    static.place(decodes)
    scores, q = Scores(WIDTH**-0.5, window), queries(4)
    attended = way(q, pages(), static, scores)
    torch.testing.assert_close(attended, paged_attention._attend_padded(q, pages(), static, scores))
    expected = attend_all(q[:3], pages(), Placement(decodes, BLOCK_SIZE, CPU), scores)
    torch.testing.assert_close(attended[[0, 2]], expected[[0, 2]])


def _tried(operator: Any, monkeypatch: pytest.MonkeyPatch, *, is_static: bool = False) -> tuple[str, str]:
    """Why the ways by table and over gathered rows can't be taken with an operator."""
    use(operator, monkeypatch)
    heads, kv_heads = torch.Size((HEADS, WIDTH)), torch.Size((KV_HEADS, WIDTH))
    by_table, gathered = (
        paged_attention._try(way, CPU, torch.float32, heads, kv_heads, BLOCK_SIZE, is_static=is_static)
        for way in (paged_attention._attend_paged, paged_attention._attend_packed)
    )
    return by_table, gathered


@pytest.mark.parametrize("is_static", [False, True])
def test_a_kernel_that_does_as_documented_is_taken(is_static: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator()
    assert _tried(operator, monkeypatch, is_static=is_static) == ("", "")
    assert operator.keywords >= {"block_table", "num_splits"}


@pytest.mark.parametrize("is_static", [False, True])
def test_a_torch_that_takes_no_tables_is_given_gathered_rows(is_static: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    by_table, gathered = _tried(Operator(OF_2_11), monkeypatch, is_static=is_static)
    assert by_table.startswith("TypeError")
    assert by_table.endswith("attends without block_table")
    assert gathered == ""


def test_a_kernel_that_refuses_tables_is_given_gathered_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Operator):
        def __call__(self, *args: Any, block_table: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, ...]:
            if block_table is not None:
                raise RuntimeError("block_table needs FA3\nand more")
            return super().__call__(*args, **kwargs)

    assert _tried(Refusing(), monkeypatch) == ("RuntimeError: block_table needs FA3 and more", "")


@pytest.mark.parametrize("is_static", [False, True])
def test_a_kernel_that_gives_something_else_is_not_taken(is_static: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Operator):
        def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            output, *others = super().__call__(*args, **kwargs)
            return (output.roll(1, dims=0), *others)  # the rows of others

    assert all(reason.startswith("off by") for reason in _tried(Wrong(), monkeypatch, is_static=is_static))


def test_where_no_kernel_can_the_log_says_what_failed_and_what_runs_instead(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def attempt(way: Callable[..., Tensor], *_: Any, **__: Any) -> str:
        return "RuntimeError: no kernel image"

    monkeypatch.setattr(paged_attention, "_try", attempt)
    heads, device = torch.Size((HEADS, WIDTH)), torch.device("cuda")
    way = paged_attention._way(device, torch.bfloat16, heads, heads, heads, BLOCK_SIZE, True)
    assert way is paged_attention._attend_padded
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "way=_attend_packed" in warning
    assert "no kernel image" in warning
    assert "instead=_attend_padded" in warning
