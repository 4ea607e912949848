"""Shows which arithmetic gives other last bits when other rows are beside a row: what a text's company can change.

    python scripts/engine/row_bits.py --threads 2

Products: for each form and type the numbers of rows (1, 2, 3, ...) in groups whose common rows have the same bits.
Attention: the share of values that differ when the same queries come in chunks rather than at once.
"""

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from gpu_worker.attention.cpu import attend_fused, attend_in_tiles
from gpu_worker.experts.matrices import DenseMatrix, Matrix, MatrixForm, PackedMatrix
from gpu_worker.machine.onednn import can_pack

_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 32, 33, 48, 64, 65, 100, 128, 200, 256)
_SHAPES = ((3584, 512), (512, 1792), (512, 512), (8, 512))
_TYPES = (torch.float32, torch.bfloat16)
_PAST, _QUERIES, _SCALE = 200, 128, 0.125

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def row_groups(matrix: Matrix, x: Tensor) -> list[list[int]]:
    """Numbers of rows, those together whose common rows come out alike."""
    groups: list[list[int]] = []
    for count in _COUNTS:
        y = matrix(x[:count])
        alike = (group for group in groups if torch.equal(matrix(x[: group[-1]]), y[: group[-1]]))
        if (group := next(alike, None)) is None:
            groups.append([count])
        else:
            group.append(count)
    return groups


def chunk_difference(attend: Attend, dtype: torch.dtype, size: int) -> float:
    """Share of what attention gives that differs when its queries come in chunks of a size."""
    torch.manual_seed(0)
    rows = _PAST + _QUERIES
    q, k, v = (torch.randn(heads, n, 64).to(dtype) for heads, n in ((8, _QUERIES), (4, rows), (4, rows)))

    def part(start: int, stop: int) -> Tensor:
        seen = _PAST + stop
        hidden = ~torch.ones(stop - start, seen, dtype=torch.bool).tril(_PAST + start)
        mask = torch.zeros(stop - start, seen, dtype=dtype).masked_fill_(hidden, float("-inf"))
        return attend(q[:, start:stop], k[:, :seen], v[:, :seen], mask if stop - start > 1 else None)

    chunks = torch.cat([part(start, start + size) for start in range(0, _QUERIES, size)], 1)
    return float((chunks != part(0, _QUERIES)).float().mean())


def main() -> None:
    """Prints what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of one operation (default: %(default)s)")
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    for dtype in _TYPES:
        forms: list[MatrixForm] = [DenseMatrix, *([PackedMatrix] if can_pack(dtype, torch.device("cpu")) else [])]
        for form in forms:
            for shape in _SHAPES:
                matrix, x = form(torch.randn(shape).to(dtype), None), torch.randn(256, shape[1]).to(dtype)
                sys.stdout.write(f"{dtype} {form.__name__} {shape}: {row_groups(matrix, x)}\n")
        ways: dict[str, Attend] = {
            "fused": lambda q, k, v, mask: attend_fused(q, k, v, _SCALE, mask),
            "tiles": lambda q, k, v, _: attend_in_tiles(q, k, v, _SCALE, None),
        }
        for name, attend in ways.items():
            shares = " ".join(f"{size}:{chunk_difference(attend, dtype, size):.1e}" for size in (1, 16, 32, 64))
            sys.stdout.write(f"{dtype} attention, {name}, in chunks of {shares}\n")


if __name__ == "__main__":
    main()
