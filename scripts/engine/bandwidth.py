"""How fast a device reads its memory: what every share of bandwidth is reckoned with."""

import time

import torch

_NUM_READS = 16
_READS_AT_ONCE = 8
_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}  # more than any cache holds, and on a GPU long beside the start of a kernel


def read_bandwidth(device: str) -> float:
    """Bytes a second of plain reading: the best of several sums; on a GPU by its own clock.

    Args:
        device: "cpu" or "cuda".
    """
    num_bytes = _BYTES[device]
    numbers = torch.ones(num_bytes // 4, device=device)
    return num_bytes / min(_read_s(numbers) for _ in range(_NUM_READS))


def _read_s(numbers: torch.Tensor) -> float:
    if not numbers.is_cuda:
        began_s = time.perf_counter()
        numbers.sum()
        return time.perf_counter() - began_s
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(_READS_AT_ONCE):  # so that the start of the first kernel does not count
        numbers.sum()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / _READS_AT_ONCE
