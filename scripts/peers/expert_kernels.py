"""Measures vLLM's kernel for experts beside oneDNN's packed products, as the worker uses them, in turns in one process.

    VENV/bin/python scripts/peers/expert_kernels.py --threads 2  # VENV holds vLLM for CPU; it need not hold the project

Eight layers of mini-mixtral's experts in float32, random routing. Servers measured one after another meet a machine in
different minutes; here both ways meet the same ones.
"""

import argparse
import importlib
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import silu

_NUM_LAYERS, _NUM_EXPERTS, _TOP_K, _HIDDEN, _INTERMEDIATE = 8, 8, 2, 512, 1792
_STD = 0.05


class Layer:
    """The experts of one layer in both forms."""

    def __init__(self) -> None:
        gate_up = torch.randn(_NUM_EXPERTS, 2 * _INTERMEDIATE, _HIDDEN) * _STD
        down = torch.randn(_NUM_EXPERTS, _HIDDEN, _INTERMEDIATE) * _STD
        reorder = torch.ops.mkldnn._reorder_linear_weight
        self._packed = [(reorder(a.contiguous()), reorder(b.contiguous())) for a, b in zip(gate_up, down, strict=True)]
        self._prepacked = [torch.empty_like(weight) for weight in (gate_up, down)]
        for weight, prepacked in zip((gate_up, down), self._prepacked, strict=True):
            torch.ops._C.prepack_moe_weight(weight, prepacked, "vec")

    def by_vllm(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """All experts for x (T, D), by routing weights and ids (T, K): (T, D)."""
        output = torch.empty_like(x)
        torch.ops._C.cpu_fused_moe(output, x, *self._prepacked, None, None, weights, ids.int(), False, "silu", "vec")
        return output

    def by_products(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """The same, expert by expert."""
        order = ids.flatten().argsort(stable=True)  # (T * K,)
        counts: list[int] = ids.flatten().bincount(minlength=_NUM_EXPERTS).tolist()
        tokens = order // _TOP_K
        outputs = []
        for (gate_up, down), rows in zip(self._packed, torch.split(tokens, counts), strict=True):
            if len(rows):
                gate, up = _product(x.index_select(0, rows), gate_up).chunk(2, -1)
                outputs.append(_product(silu(gate) * up, down))
        weighted = torch.cat(outputs) * weights.flatten().index_select(0, order)[:, None]
        return torch.zeros_like(x).index_add_(0, tokens, weighted)


def _product(x: Tensor, packed: Tensor) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return y


def _compare(layers: list[Layer], num_tokens: int, num_rounds: int) -> str:
    x = torch.randn(num_tokens, _HIDDEN)
    routing = [torch.topk(torch.randn(num_tokens, _NUM_EXPERTS).softmax(-1), _TOP_K) for _ in layers]

    def through(way: Callable[[Layer, Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
        return [way(layer, x, *chosen) for layer, chosen in zip(layers, routing, strict=True)]

    times_ms: dict[str, list[float]] = {"vLLM": [], "oneDNN": []}
    outputs = {}
    for _ in range(num_rounds):
        for name, way in (("vLLM", Layer.by_vllm), ("oneDNN", Layer.by_products)):
            began_s = time.perf_counter()
            outputs[name] = through(way)
            times_ms[name].append((time.perf_counter() - began_s) * 1e3)
    for theirs, ours in zip(outputs["vLLM"], outputs["oneDNN"], strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)
    theirs_ms, ours_ms = (statistics.median(times_ms[name]) for name in ("vLLM", "oneDNN"))
    return f"{num_tokens:5} tokens  vLLM {theirs_ms:7.1f} ms  oneDNN {ours_ms:7.1f} ms  {ours_ms / theirs_ms:.2f}x"


def main() -> None:
    """Prints the median times of both ways for several numbers of tokens."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of one operation (default: %(default)s)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64, 256], metavar="N")
    parser.add_argument("--rounds", type=int, default=25, help="how often each is measured (default: %(default)s)")
    arguments = parser.parse_args()
    importlib.import_module("vllm._C")  # brings its operators
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        layers = [Layer() for _ in range(_NUM_LAYERS)]
        for num_tokens in arguments.tokens:
            print(_compare(layers, num_tokens, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
