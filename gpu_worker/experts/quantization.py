"""Makes quantized matrices while a checkpoint is read.

    safetensors ──one weight──▶ transformers' conversion ──a layer's experts, fused──▶ each expert quantized ──▶ Matrix

Since version 5 transformers keeps a layer's experts in one tensor, and bitsandbytes, which replaces linear layers only,
passes over it. Here each expert is a matrix of its own, made as soon as its tensor has been read, so that a layer at a
time is in memory at full precision. What a model keeps besides (attention, embeddings, head) is read at full precision
first: of a mixture it is a few hundredths.
"""

from collections.abc import Iterator, Sequence, Set
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import Concatenate, ConversionOps, MergeModulelist, WeightConverter
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name
from transformers.utils.quantization_config import QuantizationConfigMixin

from gpu_worker.experts.int8 import Int8
from gpu_worker.experts.matrices import MatrixForm, Scheme, is_finite
from gpu_worker.experts.queues import PROJECTIONS, is_experts
from gpu_worker.machine.process import release_freed_memory

_METHOD = "qllm_streaming"


def form_of(scheme: Scheme) -> MatrixForm:
    """What makes matrices of a scheme."""
    if scheme == "int8":
        return Int8()
    from gpu_worker.experts import bnb  # takes seconds to import

    forms: dict[str, MatrixForm] = {
        "bnb-4bit": bnb.FourBitMatrix,
        "bnb-4bit-fp4": partial(bnb.FourBitMatrix, kind="fp4"),
        "bnb-8bit": bnb.EightBitMatrix,
    }
    return forms[scheme]


class StreamingConfig(QuantizationConfigMixin):
    """Given to `from_pretrained` as its quantization_config: experts and linear layers are quantized as they are read.

    Args:
        scheme: How.
        device: Where the matrices lie.
        linears: Names of the linear layers.

    Attributes:
        arrived: The matrices, without bias, by module and name of the tensor.
        damaged: Names of tensors in which not all values were finite.
    """

    def __init__(self, scheme: Scheme, device: str, linears: Set[str]) -> None:
        self.quant_method = _METHOD  # type: ignore[assignment]  # transformers' own are an enum
        self.form = form_of(scheme)
        self.device = device
        self.linears = linears
        self.arrived: dict[tuple[nn.Module, str], Sequence[Any]] = {}
        self.damaged: list[str] = []

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
        if name in PROJECTIONS and is_experts(module):
            return True
        return param_name.endswith(".weight") and param_name[: -len(".weight")] in self.quantization_config.linears

    # transformers 5.17 gives no model.
    def update_weight_conversions(self, weight_conversions: Any, *model: Any) -> Any:
        changed = [_left_apart(one) if _merges_experts(one) else one for one in weight_conversions]
        return super().update_weight_conversions(changed, *model)  # type: ignore[no-untyped-call]

    def get_quantize_ops(self) -> ConversionOps:
        return _QuantizeArriving(self.quantization_config)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


def _merges_experts(conversion: Any) -> bool:
    """Whether a conversion only merges a checkpoint's single experts, gates and up projections end to end."""
    if not isinstance(conversion, WeightConverter) or not conversion.target_patterns[0].endswith(PROJECTIONS):
        return False
    operations = [(type(operation), operation.dim) for operation in conversion.operations if hasattr(operation, "dim")]
    is_all = len(operations) == len(conversion.operations)
    return is_all and operations in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)])


def _left_apart(conversion: WeightConverter) -> WeightConverter:
    changed = copy(conversion)
    changed.operations = [_LeaveApart()]
    return changed


class _LeaveApart(ConversionOps):
    """Hands experts over as a checkpoint's parts: merged, they would be in memory twice at full precision."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **_: Any
    ) -> dict[str, Any]:
        parts = [input_dict.pop(pattern) for pattern in source_patterns]  # for each part one tensor of each expert
        return {target_patterns[0]: [list(of_expert) for of_expert in zip(*parts, strict=True)]}


class _QuantizeArriving(ConversionOps):
    """Makes a matrix of each expert of a fused tensor, or of a linear layer's, and leaves an empty one to the model."""

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
            module, own_name = get_module_from_name(model, name)
            self._config.arrived[module, own_name] = [
                self._matrix(name, weight) for weight in _weights_of(module, value)
            ]
            left[name] = nn.Parameter(torch.empty(0, dtype=model.dtype), requires_grad=False)
        release_freed_memory()  # of the layer before; kept, it would add up to the model at full precision
        return left

    def _matrix(self, name: str, weight: Tensor) -> Any:
        if not is_finite(weight):
            self._config.damaged.append(name)  # transformers would make a report of its own of an error raised here
        return self._config.form(weight.to(self._config.device), None)


def _weights_of(module: nn.Module, value: Any) -> Iterator[Tensor]:
    """The weights (out, in) in what arrived: experts in parts, let go as it goes, or fused, or a linear layer's."""
    if isinstance(value, list) and isinstance(value[0], list):
        value.reverse()
        while value:
            yield torch.cat(value.pop())
        return
    tensor = value[0] if isinstance(value, list) else value  # (E, ., .) or (out, in)
    if not is_experts(module):
        yield tensor
        return
    flags: Any = module
    for weight in tensor:
        yield weight.t() if flags.is_transposed else weight


def register() -> None:
    """Makes the streaming known to transformers; doing it again changes nothing."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    if _METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(_METHOD)(StreamingConfig)
        register_quantizer(_METHOD)(_StreamingQuantizer)
