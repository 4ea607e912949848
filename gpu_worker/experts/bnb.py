"""Weight matrices in 4 or 8 bits, by bitsandbytes, which takes seconds to import.

It knows no experts and no files.
"""

from typing import Any, Literal

import bitsandbytes as bnb
import torch
from torch import Tensor, nn

from gpu_worker.experts.matrices import ANY_ROWS

_BLOCK = 64
_bnb: Any = bnb  # not typed


class FourBitMatrix:
    """A weight in 4 bits, in blocks of 64 with a scale each, the scales quantized again (double quantization).

    It multiplies as `bitsandbytes.nn.Linear4bit` does, without that layer's repacking for some CPUs, which fails for
    widths that are no multiple of a block.

    Args:
        weight: The weight (out, in), in any strides; nothing of it is kept.
        bias: The bias (out,).
        kind: The 16 values that there are.
    """

    most_rows = ANY_ROWS

    def __init__(self, weight: Tensor, bias: Tensor | None, kind: Literal["nf4", "fp4"] = "nf4") -> None:
        self.num_weights = weight.numel()
        self._dtype = weight.dtype
        self._packed, self._state = _bnb.functional.quantize_4bit(
            weight.contiguous(), blocksize=_BLOCK, compress_statistics=True, quant_type=kind
        )
        self.set_bias(bias)

    def set_bias(self, bias: Tensor | None) -> None:
        """Gives it a bias (out,), or none."""
        self._bias = None if bias is None else bias.clone()

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out)."""
        y: Tensor = _bnb.matmul_4bit(x, self._packed, bias=self._bias, quant_state=self._state)
        return y

    @property
    def weight(self) -> Tensor:
        """An empty tensor of the type and place of what it computes with."""
        return torch.empty(0, dtype=self._dtype, device=self._packed.device)

    @property
    def nbytes(self) -> int:
        """Bytes of weight, scales and bias."""
        held = [self._packed, *_tensors_of(self._state), *([] if self._bias is None else [self._bias])]
        return sum(tensor.nbytes for tensor in held)


class EightBitMatrix:
    """A weight in 8 bits, with a scale for each row of it and of its input.

    Outliers of the input are not kept apart: which columns have any would depend on who else is in the batch.

    Args:
        weight: The weight (out, in), in any strides; nothing of it is kept.
        bias: The bias (out,).
    """

    most_rows = ANY_ROWS

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.num_weights = weight.numel()
        self._dtype = weight.dtype
        self._scales_nbytes = 4 * weight.shape[0]  # one float32 a row
        out_features, in_features = weight.shape
        layer = _bnb.nn.Linear8bitLt(
            in_features, out_features, bias=False, has_fp16_weights=False, threshold=0.0, device="meta"
        )
        # Not by moving a parameter to its device, which quantizes only what comes from a CPU.
        rows, scales, _ = _bnb.functional.int8_vectorwise_quant(weight.contiguous().to(torch.float16))
        layer.weight = _bnb.nn.Int8Params(rows, requires_grad=False, has_fp16_weights=False, CB=rows, SCB=scales)
        self._layer = layer.eval()
        self.set_bias(bias)

    def set_bias(self, bias: Tensor | None) -> None:
        """Gives it a bias (out,), or none."""
        self._layer.bias = None if bias is None else nn.Parameter(bias.clone(), requires_grad=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out)."""
        y: Tensor = self._layer(x.reshape(-1, x.shape[-1]))  # on a CPU it takes no more dimensions
        return y.view(*x.shape[:-1], -1)

    @property
    def weight(self) -> Tensor:
        """An empty tensor of the type and place of what it computes with."""
        return torch.empty(0, dtype=self._dtype, device=self._layer.weight.device)

    @property
    def nbytes(self) -> int:
        """Bytes of weight, scales and bias."""
        bias = self._layer.bias
        return int(self._layer.weight.nbytes + self._scales_nbytes + (0 if bias is None else bias.nbytes))


def _tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a 4-bit state, its nested one included."""
    tensors = [state.absmax, state.code]
    if state.nested:
        tensors += [state.offset, *_tensors_of(state.state2)]
    return tensors
