"""Loads a model and makes it ready to be suspended, or refuses it with the reason.

Weights come from safetensors only, and no code of a repository is ever run. It knows no sequences and no cache.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from gpu_worker.attention import interface as attention
from gpu_worker.cache.own_layer import OwnLayers
from gpu_worker.cache.unified import Layout
from gpu_worker.channel.tokenizer_fields import tokenizer_fields
from gpu_worker.checkpoint.facts import end_token_ids, longest_text, sampling_defaults
from gpu_worker.checkpoint.files import check_checkpoint, read_json
from gpu_worker.checkpoint.names import served_names
from gpu_worker.contract.introduction import SamplingDefaults
from gpu_worker.errors import DeviceLost, ModelRefused, one_line
from gpu_worker.experts.matrices import NONE_ARRIVED, Arrived
from gpu_worker.experts.queues import ExpertWeights
from gpu_worker.machine.devices import check_alive
from gpu_worker.model.compute_type import Ranks, choose_type
from gpu_worker.model.inspection import (
    ErrorLimit,
    called_linears,
    check_config,
    check_equal,
    decoder_layers,
    plain_logits,
    run_experts_at_once,
    settle_whole_layers,
)
from gpu_worker.model.probe import Structure, probe, use_implementations
from gpu_worker.model.sequencewise import SingleSequence
from gpu_worker.model.tokenizer import TokenizerFacts, read_tokenizer
from gpu_worker.model.weights import (
    AS_THEY_COME,
    WeightOptions,
    make_random_model,
    read_model,
    stored_type,
    take_weights,
)
from gpu_worker.passes import forward

logger = logging.getLogger(__name__)

_TRIAL_PROMPTS = ((1, 2, 3, 4, 5), (7, 6, 5, 4, 3, 2, 1, 0))
_MOST_NAMED = 8  # layers in a sentence
_MORE_TRIAL_PROMPTS = ((9, 8, 7), (2, 7, 1, 8, 2, 8), (3, 1, 4, 1, 5, 9, 2, 6, 5))


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
        checkpoint_dtype: The checkpoint's type; empty if it is not known, as of a model that is in memory already.
        dtype_reason: Why `dtype` was chosen, in a few words; empty as above.
        device: Device, such as "cpu".
        quantization: Of its matrices, such as "bnb-4bit"; "none" for none.
        tokenizer: Its tokenizer.
        sampling: How tokens are chosen where a request does not say.
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
    checkpoint_dtype: str
    dtype_reason: str
    device: str
    quantization: str
    tokenizer: TokenizerFacts
    sampling: SamplingDefaults


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to be suspended.

    Attributes:
        model: The causal language model, with boundaries before its layers.
        facts: What it is.
        expert_weights: Experts of each layer, None for a layer without a mixture.
        latent_layers: Layers that expand the rows which the cache returns.
        own_layers: Layers with a memory of their own, if there are any.
        state_layers: Layers that keep anything of a sequence besides a row for each token, rising.
        runs_modules_alone: Whether some modules run once for each sequence of a batch.
        reads_rows_back: Whether all rows of the last layer are read.
    """

    model: nn.Module
    facts: ModelFacts
    expert_weights: tuple[ExpertWeights | None, ...]
    latent_layers: frozenset[int]
    own_layers: OwnLayers | None
    state_layers: tuple[int, ...]
    runs_modules_alone: bool
    reads_rows_back: bool

    @property
    def no_sharing_reason(self) -> str:
        """Why a sequence can't begin with blocks that another one filled; empty if it can.

        A row in a block says all that a layer knows of its token, which depends on the tokens before and nothing else.
        A state is that of the last token only: there is none of the place where a shared beginning ends.
        """
        named, others = self.state_layers[:_MOST_NAMED], len(self.state_layers[_MOST_NAMED:])
        if not named:
            return ""
        layers = ", ".join(map(str, named)) + (f" and {others} others" if others else "")
        is_one = len(self.state_layers) == 1
        return (
            f"layer {layers} keeps a state that is not K/V"
            if is_one
            else f"layers {layers} keep a state that is not K/V"
        )


def load_model(
    source: str,
    *,
    name: str | None = None,
    device: str = "cpu",
    max_model_len: int | None = None,
    uses_generation_config: bool = True,
    options: WeightOptions = AS_THEY_COME,
    cache_bytes: int = 0,
    ranks: Ranks | None = None,
) -> LoadedModel:
    """Loads a model from a local directory or from the hub.

    Args:
        source: Directory, or hub id.
        name: Name to serve it under; None is the first that it has by itself.
        device: Where it runs.
        max_model_len: Limit on prompt plus output; None is what the model allows.
        uses_generation_config: Whether generation_config.json says how tokens are chosen.
        options: How its weights are kept.
        cache_bytes: What caches will take of the host's memory.
        ranks: The processes that hold the model together, where they are known before it is read.

    Raises:
        ModelRefused: It can't be served; the message says why.
    """
    if options.quantization == "int8" and device != "cpu":
        raise ModelRefused(
            f"--quantization: got int8, which is for CPUs; allowed on {device} are none and those of bnb"
        )
    check_checkpoint(source, needs_weights=options.source == "auto")
    config = _read_config(source)
    check_config(config)
    tokenizer = read_tokenizer(source)
    tokenizer_fields(tokenizer.tokenizer_json)  # refuses one that is too large before gigabytes are read
    with torch.device("meta"):  # a look at the modules, before gigabytes are read
        skeleton = _from_config(config)
    decoder_layers(skeleton)
    is_quantized = getattr(config, "quantization_config", None) is not None
    own_type = stored_type(source) if config.dtype is None else skeleton.dtype
    chosen = choose_type(
        skeleton, own_type, options, device, is_quantized=is_quantized, cache_bytes=cache_bytes, ranks=ranks
    )
    options = chosen.options
    if options.source == "dummy":
        model, arrived = make_random_model(config, options, device)
    else:
        linears = frozenset() if options.quantization == "none" or is_quantized else called_linears(skeleton)
        model, arrived = read_model(source, options, device, is_quantized=is_quantized, linears=linears)
    name = name or served_names(source)[0]
    loaded = adopt_model(
        model,
        name=name,
        tokenizer=tokenizer,
        max_model_len=max_model_len,
        uses_generation_config=uses_generation_config,
        options=options,
        arrived=arrived,
    )
    facts = replace(loaded.facts, checkpoint_dtype=chosen.checkpoint, dtype_reason=chosen.reason)
    return replace(loaded, facts=facts)


def adopt_model(
    model: Any,
    *,
    name: str,
    tokenizer: TokenizerFacts | None = None,
    max_model_len: int | None = None,
    uses_generation_config: bool = True,
    options: WeightOptions = AS_THEY_COME,
    arrived: Arrived = NONE_ARRIVED,
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
    length = longest_text(model.config.get_text_config(), max_model_len)
    limit = _error_limit(model, options)
    trials = _TRIAL_PROMPTS + _MORE_TRIAL_PROMPTS if limit.is_median else _TRIAL_PROMPTS
    prompts = [prompt[: max(2, length)] for prompt in trials]
    with torch.inference_mode(), _refusing(model.config.model_type, model.device):
        own_attention = model.config._attn_implementation
        quantized = options.quantization != "none"
        expected = {} if quantized else {prompt: plain_logits(model, prompt) for prompt in prompts}
        structure = probe(model, layers)
        experts = take_weights(model, structure, options, arrived)
        if quantized:
            # The model as it is computes something else: what to compare with are the same matrices, run at once.
            run_experts_at_once(model, own_attention, structure, experts)
            expected = {prompt: plain_logits(model, prompt) for prompt in prompts}
        if any(bool(logits.isnan().any()) for logits in expected.values()):
            raise ModelRefused(
                f"this {model.config.model_type} computes logits that are NaN: its config.json is damaged?"
            )
        single = [SingleSequence(module) for module in structure.single_modules]
        forward.add_boundaries(model.get_decoder(), layers)
        use_implementations(model, attention.NAME, forward.NAME)
        _check_equal(model, structure, experts, expected, limit, single)
        if Layout.of(model.device) is Layout.PAGES:
            settle_whole_layers(model, structure, experts, expected, limit)
    tokenizer = tokenizer or TokenizerFacts()
    vocab_size = min(structure.vocab_size, model.get_input_embeddings().num_embeddings)
    own_sampling = model.generation_config.to_dict() if uses_generation_config and model.generation_config else {}
    facts = ModelFacts(
        name=name,
        family=model.config.model_type,
        num_layers=len(layers),
        experts_by_layer=structure.experts_by_layer,
        num_experts_per_token=structure.num_experts_per_token,
        vocab_size=vocab_size,
        eos_token_ids=end_token_ids(
            vocab_size,
            generation_config=getattr(model.generation_config, "eos_token_id", None),
            config=getattr(model.config.get_text_config(), "eos_token_id", None),
            tokenizer=tokenizer.eos_token_id,
        ),
        max_model_len=length,
        dtype=str(model.dtype).removeprefix("torch."),
        checkpoint_dtype="",
        dtype_reason="",
        device=str(model.device),
        quantization=_quantization(model, options),
        tokenizer=tokenizer,
        sampling=sampling_defaults(own_sampling, vocab_size),
    )
    logger.info("model %s ready: %s, %d layers on %s", name, facts.family, facts.num_layers, facts.device)
    return LoadedModel(
        model,
        facts,
        experts,
        structure.latent_layers,
        structure.own_layers,
        structure.state_layers,
        bool(single),
        structure.reads_rows_back,
    )


def _check_equal(
    model: Any,
    structure: Structure,
    experts: Sequence[ExpertWeights | None],
    prompts: dict[tuple[int, ...], torch.Tensor],
    limit: ErrorLimit,
    single: Sequence[SingleSequence],
) -> None:
    """As check_equal; modules that keep a state, and may ignore it when given several tokens, get them one by one."""
    try:
        check_equal(model, structure, experts, prompts, limit)
    except ModelRefused:
        if not single:
            raise
        for module in single:
            module.goes_on_token_by_token = True
        check_equal(model, structure, experts, prompts, limit)
        logger.warning(
            "%s goes on with a prompt token by token: long prompts in chunks are slow", model.config.model_type
        )


def _error_limit(model: Any, options: WeightOptions) -> ErrorLimit:
    """What rounding explains in the model's type."""
    is_precise = model.dtype in (torch.float32, torch.float64) and options.quantization not in ("int8", "bnb-8bit")
    if is_precise:
        return ErrorLimit(1e-2, is_median=False)
    # Random weights rate experts nearly alike, so that a last bit chooses others in many layers: 0.6 was measured with
    # 32 layers. Logits that have nothing to do with each other are off by 1.4.
    return ErrorLimit(1.2 if options.source == "dummy" else 0.3, is_median=True)


def _quantization(model: Any, options: WeightOptions) -> str:
    """What its matrices are quantized to: by the options, or as the checkpoint says, unless transformers undid it."""
    if options.quantization != "none":
        return options.quantization
    of_checkpoint: Any = getattr(model.config, "quantization_config", None)
    if of_checkpoint is None or getattr(of_checkpoint, "dequantize", False):
        return "none"
    return str(getattr(of_checkpoint.quant_method, "value", of_checkpoint.quant_method))


@contextmanager
def _refusing(family: str, device: torch.device) -> Iterator[None]:
    """Turns whatever a model raises while it is looked at into a refusal, unless that broke the device."""
    try:
        yield
    except (ModelRefused, DeviceLost):
        raise
    except Exception as error:
        check_alive(device, error)
        raise ModelRefused(f"this {family} failed a trial run: {type(error).__name__}: {error}") from error


def _read_config(source: str) -> Any:
    """Reads the configuration of a directory or hub id; raises ModelRefused, also where a model needs its own code."""
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # families check their values in ways of their own
        is_local = Path(source).is_dir()
        settings = read_json(Path(source) / "config.json") if is_local else {}
        if "auto_map" in settings and settings.get("model_type") not in CONFIG_MAPPING:
            raise ModelRefused(
                f"{source} needs its own code to run (auto_map in config.json), and a model's code is never run"
            ) from error
        where = "" if is_local else ", which is no directory here and was looked for on the Hugging Face hub,"
        raise ModelRefused(f"{source}{where} can't be served: {one_line(error)}") from error


def _from_config(config: Any) -> Any:
    try:
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # for example KeyError, of an activation that does not exist
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ModelRefused(f"{config.model_type} is no causal language model here: {reason}") from error
