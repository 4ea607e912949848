"""Reads a model's weights and brings its matrices into the form that they are to be kept in.

    checkpoint ──transformers──▶ model ──experts──▶ matrices, one each       ──▶ LayerExperts
                                       ──linear layers that are called──▶ MatrixLinear
                                       ──embeddings, norms, routers──▶ as they are

It knows forms and files, and neither how a model is suspended nor what is served of it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.distributed.configuration_utils import DistributedConfig

from gpu_worker.errors import ModelRefused, one_line
from gpu_worker.experts import quantization
from gpu_worker.experts.int8 import Int8Matrix, fit_int8
from gpu_worker.experts.matrices import (
    NONE_ARRIVED,
    Arrived,
    DenseMatrix,
    Matrix,
    MatrixForm,
    MatrixLinear,
    PackedMatrix,
    Packing,
    Scheme,
    is_finite,
    place_linears,
    replace_linears,
)
from gpu_worker.experts.queues import PROJECTIONS, ExpertWeights, LayerExperts, is_experts
from gpu_worker.experts.row_counts import fit_row_counts
from gpu_worker.machine.onednn import can_pack
from gpu_worker.machine.process import release_freed_memory
from gpu_worker.model.probe import Structure

logger = logging.getLogger(__name__)

_STORED_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # in which models are served
_RANDOM_STD = 0.02  # as transformers' configurations have it

DType = Literal["auto", "float32", "bfloat16"]
Weights = Literal["auto", "dense", "packed"]
LoadFormat = Literal["auto", "dummy"]
Quantization = Literal["none"] | Scheme


@dataclass(frozen=True, slots=True)
class WeightOptions:
    """How weights are kept.

    Attributes:
        dtype: Compute type; auto is that of the checkpoint. See `compute_type`.
        form: Form of what is not quantized; auto packs where that can be done.
        quantization: What experts and linear layers, all but the head, are quantized to.
        source: auto is the checkpoint; dummy makes random weights on the device.
        is_sliced: Whether each rank of a process group holds a slice of every matrix.
    """

    dtype: DType = "auto"
    form: Weights = "auto"
    quantization: Quantization = "none"
    source: LoadFormat = "auto"
    is_sliced: bool = False


AS_THEY_COME = WeightOptions()


def read_model(
    source: str, options: WeightOptions, device: str, *, is_quantized: bool, linears: Set[str] = frozenset()
) -> tuple[Any, Arrived]:
    """Reads all weights; a checkpoint that lacks some is refused rather than filled with random numbers.

    Args:
        source: Directory, or hub id.
        options: How weights are to be kept.
        device: Where they are to lie.
        is_quantized: Whether the checkpoint is quantized already; what it left at full precision is then read so.
        linears: Names of linear layers to quantize as they are read, as experts always are.

    Returns:
        The model on its device, and the matrices that were quantized on the way: experts', which the model then lacks,
        and linear layers', which stand in for them.

    Raises:
        ModelRefused: They can't be read; the message says why.
    """
    arrived: Arrived = NONE_ARRIVED
    damaged: Sequence[str] = ()
    arguments: dict[str, Any] = {}
    if options.is_sliced:
        arguments["distributed_config"] = DistributedConfig(tp_plan="auto")
    if options.quantization != "none" and not is_quantized:
        quantization.register()
        streaming = quantization.StreamingConfig(options.quantization, device, linears)
        arrived, damaged, arguments["quantization_config"] = streaming.arrived, streaming.damaged, streaming
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype="auto" if options.dtype == "auto" else getattr(torch, options.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report then, by name
            **arguments,
        )
    except Exception as error:  # safetensors, families and quantizers raise what they like
        raise ModelRefused(f"the weights of {source} can't be loaded: {one_line(error)}") from error
    model, report = loaded
    _check_report(source, report)
    damaged = [*damaged, *(name for name, tensor in _saved_tensors(model) if not is_finite(tensor))]
    if damaged:
        raise ModelRefused(f"the checkpoint {source} is damaged: {damaged[0]} holds NaN or infinite values")
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter:
            # One that still lies in the mapped file would keep all of the file in memory.
            parameter.data = parameter.data.clone()
    if arrived:
        logger.info("quantized %d linear layers as they were read", place_linears(model, arrived))
    if options.quantization != "none":
        release_freed_memory()
    return model.to(device), arrived


def _saved_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields what a checkpoint holds of a model: parameters, and such buffers as a router's correction."""
    yield from model.named_parameters()
    saved = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


def stored_type(source: str) -> torch.dtype | None:
    """Type of the first weights in a directory, where the configuration names none; None if it does not show."""
    for file in sorted(Path(source).glob("*.safetensors"))[:1]:
        with suppress(OSError, SafetensorError), safe_open(file, framework="pt") as weights:
            types = (_STORED_TYPES.get(weights.get_slice(name).get_dtype()) for name in weights.keys())  # noqa: SIM118
            return next((dtype for dtype in types if dtype is not None), None)
    return None


def _check_report(source: str, report: Mapping[str, Any]) -> None:
    """Raises ModelRefused where transformers found weights of other shapes, or too few, and would make up the rest."""
    for name, held, expected in sorted(report.get("mismatched_keys", ())):
        shapes = f"{tuple(held)}, and its configuration says {tuple(expected)}"
        raise ModelRefused(f"the checkpoint {source} holds {name} of shape {shapes}")
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise ModelRefused(f"the checkpoint {source} lacks {len(lacking)} weights, such as {lacking[0]}")


def make_random_model(config: Any, options: WeightOptions, device: str) -> tuple[Any, Arrived]:
    """Makes a model of random weights on a device, its experts one by one, so that they need not fit there unquantized.

    Returns:
        The model, and the matrices of experts that were quantized, which the model then lacks.
    """
    dtype = config.dtype if options.dtype == "auto" else getattr(torch, options.dtype)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    arrived: dict[tuple[nn.Module, str], Sequence[Matrix]] = {}
    if options.quantization != "none":
        form = quantization.form_of(options.quantization)
        for module in filter(is_experts, model.modules()):
            for name in PROJECTIONS:
                fused = getattr(module, name, None)  # (E, ., .)
                if fused is not None:
                    arrived[module, name] = [form(_random_weight(module, fused, device), None) for _ in fused]
                    setattr(module, name, nn.Parameter(fused.new_empty(0, device=device), requires_grad=False))
    model.to_empty(device=device)
    with torch.no_grad():
        model.init_weights()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=_RANDOM_STD)
    return model, arrived


def _random_weight(module: Any, fused: torch.Tensor, device: str) -> torch.Tensor:
    """One expert's weight (out, in), in the type that it will be computed with."""
    shape = fused.shape[:0:-1] if module.is_transposed else fused.shape[1:]
    return torch.randn(shape, dtype=fused.dtype, device=device) * _RANDOM_STD


def take_weights(
    model: Any, structure: Structure, options: WeightOptions, arrived: Arrived = NONE_ARRIVED
) -> tuple[LayerExperts | None, ...]:
    """Brings a model's matrices into their form.

    Returns:
        The experts of each layer, which the model then has no more, None for a layer without a mixture.

    Raises:
        ModelRefused: They can't be kept so.
    """
    plain = _plain_form(model, options.form)
    form = plain if options.quantization == "none" else form_of_weights(model.dtype, model.device, options)
    called = structure.called_linears
    if options.quantization != "none":
        head = model.get_output_embeddings()
        logger.info("quantized %d linear layers", replace_linears(model, called - {head}, form))
    if plain is not DenseMatrix:
        logger.info("packed %d linear layers", replace_linears(model, called, plain))
    experts = tuple(
        None if module is None else LayerExperts(module, form, arrived) for module in structure.experts_modules
    )
    if options.quantization != "none":
        release_freed_memory()
    of_experts = [matrix for layer in experts if layer is not None for matrix in layer.matrices]
    packed = [matrix for matrix in (*of_experts, *_matrices_of_linears(model)) if isinstance(matrix, PackedMatrix)]
    if counts := fit_row_counts(packed):
        logger.info("products of 0, 1, 2, ... rows run with %s", counts)
    whole = [matrix for matrix in (*of_experts, *_matrices_of_linears(model)) if isinstance(matrix, Int8Matrix)]
    if way := fit_int8(whole):
        logger.info("int8 products of up to %d rows by whole numbers, of more in %s", way.most_direct, way.wide)
    _report_bits(model, experts)
    return experts


def form_of_weights(dtype: torch.dtype, device: torch.device, options: WeightOptions) -> MatrixForm:
    """What most of a model's weights are made into: quantized, or packed where possible and wished, or dense."""
    if options.quantization != "none":
        return quantization.form_of(options.quantization)
    return Packing() if can_pack(dtype, device) and options.form != "dense" else DenseMatrix


def _plain_form(model: Any, wished: Weights) -> MatrixForm:
    """What weights are made into that are not quantized."""
    if wished == "packed" and not can_pack(model.dtype, model.device):
        dtype = str(model.dtype).removeprefix("torch.")
        raise ModelRefused(f"weights of type {dtype} can't be packed on {model.device}; allowed are auto and dense")
    return form_of_weights(model.dtype, model.device, WeightOptions(form=wished))


def _report_bits(model: nn.Module, experts: Sequence[ExpertWeights | None]) -> None:
    """Logs the bits that a weight takes, scales included, counted from what is in memory."""
    mixtures = [layer for layer in experts if layer is not None]
    expert_bytes, num_expert_weights = sum(m.nbytes for m in mixtures), sum(m.num_weights for m in mixtures)
    matrices = _matrices_of_linears(model)
    parameters = [p for module in model.modules() if not is_experts(module) for p in module.parameters(recurse=False)]
    other_bytes = sum(m.nbytes for m in matrices) + sum(p.nbytes for p in parameters)
    num_other_weights = sum(m.num_weights for m in matrices) + sum(_num_weights(p) for p in parameters)
    all_bytes, num_weights = expert_bytes + other_bytes, num_expert_weights + num_other_weights
    logger.info(
        "weights bytes=%d bits_per_weight=%.2f expert_bits_per_weight=%.2f",
        all_bytes,
        8 * all_bytes / max(1, num_weights),
        8 * expert_bytes / max(1, num_expert_weights),
    )


def _matrices_of_linears(model: nn.Module) -> list[Matrix]:
    """The matrices that stand in for linear layers."""
    return [module.matrix for module in model.modules() if isinstance(module, MatrixLinear)]


def _num_weights(parameter: nn.Parameter) -> int:
    """Weights that a parameter stands for: one of bitsandbytes' holds two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else prod(state.shape)
