"""Loads a model and makes it ready to be suspended, or refuses it with the reason.

Weights come from safetensors only, and no code of a repository is ever run. It knows no sequences and no cache.

Source: arXiv 2503.09304
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from gpu_worker import attention, forward
from gpu_worker.errors import ModelRefused
from gpu_worker.experts import ExpertWeights, LayerExperts
from gpu_worker.inspection import check_config, check_equal, decoder_layers, plain_logits
from gpu_worker.matrices import DenseMatrix, MatrixForm, PackedMatrix, can_pack, pack_linears
from gpu_worker.probe import Structure, probe, use_implementations
from gpu_worker.sequencewise import SingleSequence
from gpu_worker.tokenizer import TokenizerFacts, read_tokenizer

logger = logging.getLogger(__name__)

DType = Literal["auto", "float32", "bfloat16"]
Weights = Literal["auto", "dense", "packed"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model is, in numbers and names; control.proto's WorkerModel has the same fields.

    Attributes:
        name: Name that the model is served under.
        family: Transformers model type, such as "mixtral".
        num_layers: Decoder layers.
        experts_by_layer: Experts of each decoder layer, 0 for one without a mixture.
        num_experts_per_token: Experts chosen for each token.
        vocab_size: Tokens in the vocabulary.
        eos_token_ids: Tokens that end a text, rising.
        max_model_len: Longest prompt plus output in tokens.
        dtype: Compute type, such as "float32".
        device: Device, such as "cpu".
        tokenizer: Its tokenizer.
    """

    name: str
    family: str
    num_layers: int
    experts_by_layer: tuple[int, ...]
    num_experts_per_token: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    max_model_len: int
    dtype: str
    device: str
    tokenizer: TokenizerFacts


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to be suspended.

    Attributes:
        model: The causal language model, with boundaries before its layers.
        facts: What it is.
        expert_weights: Experts of each layer, None for a layer without a mixture.
        latent_layers: Layers that expand the rows which the cache returns.
    """

    model: nn.Module
    facts: ModelFacts
    expert_weights: tuple[ExpertWeights | None, ...]
    latent_layers: frozenset[int]


def load_model(
    source: str,
    *,
    name: str | None = None,
    dtype: DType = "auto",
    device: str = "cpu",
    max_model_len: int | None = None,
    weights: Weights = "auto",
) -> LoadedModel:
    """Loads a model from a local directory or from the hub.

    Args:
        source: Directory, or hub id.
        name: Name to serve it under; None is the last part of source.
        dtype: Compute type; auto is that of the checkpoint.
        device: Where it runs.
        max_model_len: Upper limit on prompt plus output; None is what the model allows.
        weights: Form in which matrices are kept; auto packs them where that can be done.

    Raises:
        ModelRefused: It can't be served; the message says why.
    """
    _check_files(source)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelRefused(f"{source} can't be served: {error}") from error
    check_config(config)
    with torch.device("meta"):  # a look at the modules, before gigabytes are read
        decoder_layers(_from_config(config))
    model = _read_weights(source, dtype).to(device)
    name = name or Path(source).resolve().name if Path(source).is_dir() else name or source.rsplit("/", 1)[-1]
    return adopt_model(model, name=name, tokenizer=read_tokenizer(source), max_model_len=max_model_len, weights=weights)


def adopt_model(
    model: Any,
    *,
    name: str,
    tokenizer: TokenizerFacts | None = None,
    max_model_len: int | None = None,
    weights: Weights = "auto",
) -> LoadedModel:
    """Makes a model in memory ready to be suspended; from then on only a ForwardPass may run it.

    Raises:
        ModelRefused: It can't be served; the message says why.
    """
    check_config(model.config)
    layers = decoder_layers(model)
    model.eval().requires_grad_(False)
    attention.register()
    forward.register()
    length = _max_length(model.config, max_model_len)
    with torch.inference_mode(), _refusing(model.config.model_type):
        prompts = {
            ids[:length]: plain_logits(model, ids[:length]) for ids in ((1, 2, 3, 4, 5), (7, 6, 5, 4, 3, 2, 1, 0))
        }
        structure = probe(model, layers)
        experts = _take_weights(model, structure, weights)
        single = [SingleSequence(module) for module in structure.single_modules]
        forward.add_boundaries(layers)
        use_implementations(model, attention.NAME, forward.NAME)
        _check_equal(model, structure, experts, prompts, single)
    facts = ModelFacts(
        name=name,
        family=model.config.model_type,
        num_layers=len(layers),
        experts_by_layer=structure.experts_by_layer,
        num_experts_per_token=structure.num_experts_per_token,
        vocab_size=min(structure.vocab_size, model.get_input_embeddings().num_embeddings),
        eos_token_ids=_eos_token_ids(model),
        max_model_len=length,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        tokenizer=tokenizer or TokenizerFacts(),
    )
    logger.info("model %s ready: %s, %d layers on %s", name, facts.family, facts.num_layers, facts.device)
    return LoadedModel(model, facts, experts, structure.latent_layers)


def _check_equal(
    model: Any,
    structure: Structure,
    experts: Sequence[ExpertWeights | None],
    prompts: dict[tuple[int, ...], torch.Tensor],
    single: Sequence[SingleSequence],
) -> None:
    """As check_equal; where modules keep a state, that they may ignore when given several tokens, they get them one by one."""
    try:
        check_equal(model, structure, experts, prompts)
    except ModelRefused:
        if not single:
            raise
        for module in single:
            module.goes_on_token_by_token = True
        check_equal(model, structure, experts, prompts)
        logger.warning(
            "%s goes on with a prompt token by token: long prompts in chunks are slow", model.config.model_type
        )


def _take_weights(model: Any, structure: Structure, weights: Weights) -> tuple[ExpertWeights | None, ...]:
    """Brings a model's matrices into their form, and returns the experts of each layer, which the model then has no more."""
    possible = can_pack(model.dtype, model.device)
    if weights == "packed" and not possible:
        dtype = str(model.dtype).removeprefix("torch.")
        raise ModelRefused(f"weights of type {dtype} can't be packed on {model.device}; allowed are auto and dense")
    form: MatrixForm = DenseMatrix
    if possible and weights != "dense":
        form = PackedMatrix
        logger.info("packed %d linear layers", pack_linears(model, structure.called_linears))
    return tuple(None if module is None else LayerExperts(module, form) for module in structure.experts_modules)


@contextmanager
def _refusing(family: str) -> Iterator[None]:
    """Turns whatever a model raises while it is looked at into a refusal."""
    try:
        yield
    except ModelRefused:
        raise
    except Exception as error:
        raise ModelRefused(f"this {family} failed a trial run: {type(error).__name__}: {error}") from error


def _check_files(source: str) -> None:
    """Raises ModelRefused for a local directory that lacks what is needed, or that would need its own code."""
    directory = Path(source)
    if not directory.is_dir():
        if directory.exists() or source.startswith((".", "/", "~")):
            raise ModelRefused(f"{source} is no directory")
        return
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise ModelRefused(f"{source} has no config.json")
    try:
        config = json.loads(config_file.read_text())
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{config_file} can't be read: {error}") from error
    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
        raise ModelRefused(
            f"{source} needs its own code to run (auto_map in config.json), and a model's code is never run"
        )
    if not any(directory.glob("*.safetensors")):
        others = sorted(
            path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in directory.glob(pattern)
        )
        held = f"only {', '.join(others[:3])}" if others else "no weights"
        raise ModelRefused(f"{source} holds {held}; weights must be in safetensors files (save_pretrained writes them)")


def _from_config(config: Any) -> Any:
    try:
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (ValueError, ImportError) as error:
        raise ModelRefused(f"{config.model_type} is no causal language model here: {error}") from error


def _read_weights(source: str, dtype: DType) -> Any:
    """Reads all weights; a checkpoint that lacks some is refused rather than filled with random numbers."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype="auto" if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ModelRefused(f"the weights of {source} can't be loaded: {error}") from error
    model, report = loaded
    lacking = sorted([*report["missing_keys"], *(str(key) for key in report.get("mismatched_keys", ()))])
    if lacking:
        raise ModelRefused(f"the checkpoint {source} lacks {len(lacking)} weights, such as {lacking[0]}")
    for parameter in model.parameters():  # one that still lies in the mapped file would keep all of the file in memory
        parameter.data = parameter.data.clone()
    return model


def _max_length(config: Any, wished: int | None) -> int:
    """Longest sequence in tokens that the model was made for, or less if wished so."""
    text = config.get_text_config()
    limits = [limit for limit in (wished, getattr(text, "max_position_embeddings", None)) if limit is not None]
    rope = getattr(text, "rope_parameters", None) or {}
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        # Past this length these scale all positions by the longest sequence of a forward: others in the batch would change.
        if parameters.get("rope_type") in ("dynamic", "longrope"):
            limits += [limit for limit in (parameters.get("original_max_position_embeddings"),) if limit is not None]
    if not limits:
        raise ModelRefused(f"{config.model_type} does not say how long a text may be; give max_model_len")
    return int(min(limits))


def _eos_token_ids(model: Any) -> tuple[int, ...]:
    found: set[int] = set()
    for config in (model.generation_config, model.config.get_text_config()):
        ids = getattr(config, "eos_token_id", None)
        found.update(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
    return tuple(sorted(found))
