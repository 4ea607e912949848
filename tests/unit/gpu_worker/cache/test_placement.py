"""The indices of a pass name the rows of its sequences, and no others', in the shapes that kernels want."""

import torch

from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.placement import Placement
from gpu_worker.cache.span import Span

CPU = torch.device("cpu")


def table(number: int, *block_ids: int) -> BlockTable:
    made = BlockTable(number, 4, CPU)
    made.place(list(block_ids))
    return made


def spans() -> list[Span]:
    """A chunk of two rows after four, a decode after nine, and a prompt of three."""
    return [Span(table(1, 5, 2), 0, 2, 4), Span(table(2, 7, 1, 4), 2, 1, 9), Span(table(3, 0), 3, 3, 0)]


def test_new_rows_go_behind_those_before() -> None:
    placement = Placement(spans(), 4, CPU)
    assert placement.slots.tolist() == [8, 9, 17, 0, 1, 2]
    assert placement.kept_rows is None


def test_a_dropped_sequence_is_named_nowhere() -> None:
    all_spans = spans()
    all_spans[1].dropped = True
    placement = Placement(all_spans, 4, CPU)
    assert placement.kept_rows is not None
    assert placement.kept_rows.tolist() == [0, 1, 3, 4, 5]
    assert placement.slots.tolist() == [8, 9, 0, 1, 2]
    assert placement.block_table.tolist() == [[5, 2], [0, 0]]
    assert placement.singles == []


def test_kernels_get_bounds_lengths_and_a_table_of_blocks() -> None:
    placement = Placement(spans(), 4, CPU)
    assert placement.query_bounds.tolist() == [0, 2, 3, 6]
    assert placement.history_bounds.tolist() == [0, 6, 16, 19]
    assert placement.lengths.tolist() == [6, 10, 3]
    assert placement.block_table.tolist() == [[5, 2, 0], [7, 1, 4], [0, 0, 0]]
    assert (placement.max_queries, placement.max_length) == (3, 10)
    assert placement.history.tolist() == [*range(20, 24), 8, 9, *range(28, 32), *range(4, 8), 16, 17, 0, 1, 2]


def test_a_block_that_is_held_for_later_is_not_in_the_table() -> None:
    assert Placement([Span(table(1, 5, 2, 9), 0, 1, 3)], 4, CPU).block_table.tolist() == [[5]]


def test_decodes_lie_side_by_side() -> None:
    placement = Placement([*spans()[:2], Span(table(4, 3), 3, 1, 1)], 4, CPU)
    assert placement.single_rows.tolist() == [2, 3]
    assert placement.single_slots[1].tolist() == [12, 13, *[0] * 8]
    assert placement.single_mask(None)[1].tolist() == [True] * 2 + [False] * 8
    assert placement.single_mask(3)[0].tolist() == [False] * 7 + [True] * 3


def test_a_sequence_that_moved_or_went_asks_for_another_placement() -> None:
    all_spans = spans()
    before = Placement.state(all_spans)
    assert Placement.state(all_spans) == before
    all_spans[0].table.place([3, 6])
    moved = Placement.state(all_spans)
    assert moved != before
    all_spans[1].dropped = True
    assert Placement.state(all_spans) != moved
