"""Weight matrices in 4 or 8 bits, by bitsandbytes, and how they are made while a checkpoint is read.

    safetensors ──one weight──▶ transformers' conversion ──one layer's experts, fused──▶ each expert quantized ──▶ Matrix

Since version 5 transformers keeps a layer's experts in one tensor, and bitsandbytes, which replaces linear layers only, passes
over it. Here each expert is a matrix of its own, made as soon as its tensor has been read, so that a layer at a time is in memory
at full precision. What a model keeps besides (attention, embeddings, head) is read at full precision first: of a mixture it is
a few hundredths.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name
from transformers.utils.quantization_config import QuantizationConfigMixin

from gpu_worker.experts import PROJECTIONS, is_experts
from gpu_worker.matrices import MatrixForm, Scheme
from gpu_worker.process import release_freed_memory

_METHOD = "qllm_streaming"
_BLOCK = 64
_bnb: Any = bnb  # not typed


class FourBitMatrix:
    """A weight in 4 bits, in blocks of 64 with a scale each, the scales quantized again (double quantization).

    It multiplies as `bitsandbytes.nn.Linear4bit` does, without that layer's repacking for some CPUs, which fails for widths that
    are no multiple of a block.

    Args:
        weight: The weight (out, in), in any strides; nothing of it is kept.
        bias: The bias (out,).
        kind: The 16 values that there are.
    """

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

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.num_weights = weight.numel()
        self._dtype = weight.dtype
        self._scales_nbytes = 4 * weight.shape[0]  # one float32 a row
        out_features, in_features = weight.shape
        layer = _bnb.nn.Linear8bitLt(
            in_features, out_features, bias=False, has_fp16_weights=False, threshold=0.0, device="meta"
        )
        parameter = _bnb.nn.Int8Params(weight.contiguous(), requires_grad=False, has_fp16_weights=False)
        layer.weight = parameter.to(weight.device)
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


def form_of(scheme: Scheme) -> MatrixForm:
    """What makes matrices of a scheme."""
    forms: dict[Scheme, MatrixForm] = {
        "bnb-4bit": FourBitMatrix,
        "bnb-4bit-fp4": partial(FourBitMatrix, kind="fp4"),
        "bnb-8bit": EightBitMatrix,
    }
    return forms[scheme]


class StreamingConfig(QuantizationConfigMixin):
    """Given to `from_pretrained` as its quantization_config: experts are quantized as they are read.

    Args:
        scheme: How.
        device: Where the matrices lie.

    Attributes:
        arrived: The matrices, without bias, by experts module and name of the projection.
    """

    def __init__(self, scheme: Scheme, device: str) -> None:
        self.quant_method = _METHOD  # type: ignore[assignment]  # transformers' own are an enum
        self.form = form_of(scheme)
        self.device = device
        self.arrived: dict[tuple[nn.Module, str], Sequence[Any]] = {}

    def __deepcopy__(self, _: object) -> "StreamingConfig":
        """Itself: transformers copies configurations, and what arrives is to be found here."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """What a configuration would say of it; such a model is not saved."""
        return {"quant_method": _METHOD}


class _StreamingQuantizer(HfQuantizer):
    """Tells transformers' loader which tensors to hand over."""

    requires_calibration = False
    quantization_config: StreamingConfig

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        module, name = get_module_from_name(model, param_name)
        return name in PROJECTIONS and is_experts(module)

    def get_quantize_ops(self) -> ConversionOps:
        return _QuantizeExperts(self.quantization_config)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


class _QuantizeExperts(ConversionOps):
    """Makes a matrix of each expert of a fused tensor, and leaves an empty one to the model."""

    def __init__(self, config: StreamingConfig) -> None:
        self._config = config

    def convert(  # type: ignore[override]  # transformers' own operations return single tensors too
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        model: Any = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        left: dict[str, Tensor] = {}
        for name, value in input_dict.items():
            fused = value[0] if isinstance(value, list) else value  # (E, ., .)
            module, projection = get_module_from_name(model, name)
            device = self._config.device
            weights = (weight.t() if module.is_transposed else weight for weight in fused)
            self._config.arrived[module, projection] = [self._config.form(w.to(device), None) for w in weights]
            left[name] = nn.Parameter(fused.new_empty(0), requires_grad=False)
        release_freed_memory()  # of the layer before; kept, it would add up to the model at full precision
        return left


def register() -> None:
    """Makes the streaming known to transformers; doing it again changes nothing."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    if _METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(_METHOD)(StreamingConfig)
        register_quantizer(_METHOD)(_StreamingQuantizer)


def _tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a 4-bit state, its nested one included."""
    tensors = [state.absmax, state.code]
    if state.nested:
        tensors += [state.offset, *_tensors_of(state.state2)]
    return tensors
