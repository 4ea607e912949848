"""Decides whether a model can be served, by looking at it rather than at a list of names.

    config    ──▶ one decoder, plain weights, layers of types whose state is known
    skeleton  ──▶ decoder layers found
    probing   ──▶ a forward in which each layer attends as often as it stores K/V, at most once, and asks its experts
                  at most once; who keeps a state of one text (recurrence, convolution, indexer) is to run sequence
                  by sequence
    comparing ──▶ suspended, ragged and paged, it computes what the model itself computes

A refusal says why.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from gpu_worker.cache.argument import cache_argument
from gpu_worker.cache.ragged import RaggedCache
from gpu_worker.cache.span import Span
from gpu_worker.cache.unified import UnifiedDynamicCache
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import ModelRefused, one_line
from gpu_worker.experts.matrices import can_replace, holders_of_parameters
from gpu_worker.experts.queues import ExpertQueues, ExpertWeights, ExpertWork, run_jointly
from gpu_worker.machine.devices import check_alive
from gpu_worker.model.probe import Structure, forward_inputs, probe, use_implementations
from gpu_worker.passes.forward import ForwardPass

logger = logging.getLogger(__name__)

_AT_ONCE = "qllm_at_once"
# What a layer of these types keeps is K/V of single tokens, what transformers' cache names as a state, or a memory of
# its own. Other types (chunks) mean something by their masks, which are not built here.
_LAYER_TYPES = {
    "full_attention",
    "sliding_attention",
    "indexed_attention",
    "deepseek_sparse_attention",  # its names before transformers 5.18
    "qwen_sparse_attention",
    "heavily_compressed_attention",
    "compressed_sparse_attention",
    "linear_attention",
    "mamba",
    "conv",
    "hybrid",
    "hybrid_sliding",
    "attention",
    "moe",
    "mlp",
    "dummy",
}


def check_config(config: Any) -> None:
    """Raises ModelRefused for what a configuration alone shows to be out of reach."""
    family = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused(f"{family} is an encoder-decoder model; only decoders are served")
    other = sorted(set(getattr(config.get_text_config(), "layer_types", None) or ()) - _LAYER_TYPES)
    if other:
        raise ModelRefused(f"{family} has layers of type {', '.join(other)}, whose state is not known here")


def decoder_layers(model: Any) -> nn.ModuleList:
    """Finds the decoder layers of a model, whose weights need not be there.

    Raises:
        ModelRefused: They are not found, or the model is one that can't be served.
    """
    family = model.config.model_type
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) != model.config.get_text_config().num_hidden_layers:
        raise ModelRefused(f"{family} has no list of decoder layers where transformers models have it")
    return layers


def called_linears(skeleton: Any) -> frozenset[str]:
    """Names of the linear layers that a forward calls, found without weights; none if the model does not run without.

    The head is left out, and what a matrix can't stand in for. Layers that are not named are
    looked at once there are weights.
    """
    try:
        with torch.inference_mode():
            called = probe(skeleton.eval(), decoder_layers(skeleton)).called_linears
    except Exception as error:  # whatever asks for the contents of a tensor
        logger.info("linear layers are quantized after reading: %s: %s", type(error).__name__, error)
        return frozenset()
    holders, head = holders_of_parameters(skeleton), skeleton.get_output_embeddings()
    return frozenset(
        name
        for name, module in skeleton.named_modules()
        if module in called and module is not head and can_replace(module, holders)
    )


def plain_logits(model: Any, token_ids: Sequence[int]) -> Tensor:
    """Logits (V,) after the last of two tokens or more, by the model as it is: all but the last at once, and a step."""
    first = model(**forward_inputs(model, token_ids[:-1]), use_cache=True)
    step = forward_inputs(model, token_ids[-1:], len(token_ids) - 1)
    name = cache_argument(model).name
    logits: Tensor = model(**step, **{name: first[name]}, use_cache=True).logits[0, -1]
    return logits


def run_experts_at_once(
    model: Any, own_attention: str, structure: Structure, weights_by_layer: Sequence[ExpertWeights | None]
) -> None:
    """Lets a model whose experts were taken away run by itself, each layer's experts one after another."""
    modules = structure.experts_modules
    weights_of = {m: w for m, w in zip(modules, weights_by_layer, strict=True) if m is not None and w is not None}
    num_experts = dict(zip(modules, structure.experts_by_layer, strict=True))

    def run(module: nn.Module, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
        queues = ExpertQueues(ExpertWork(module, hidden, expert_ids, weights), num_experts[module], None)
        while not queues.is_done:
            run_jointly(weights_of[module], [queues], queues.next_expert)
        return queues.result()

    ALL_EXPERTS_FUNCTIONS.register(_AT_ONCE, run)
    use_implementations(model, own_attention, _AT_ONCE)


@dataclass(frozen=True, slots=True)
class ErrorLimit:
    """Relative errors of the logits of several prompts that rounding explains.

    Attributes:
        largest: The largest.
        is_median: Whether it is the median's: where few bits are kept, a last one flips the choice of an expert in
            some prompt, and all that follows.
    """

    largest: float
    is_median: bool

    def holds(self, errors: Sequence[float]) -> bool:
        """Whether rounding explains these; it explains none that is no number."""
        judged = sorted(errors)[(len(errors) - 1) // 2] if self.is_median else max(errors)
        return not any(map(isnan, errors)) and judged <= self.largest

    def __str__(self) -> str:
        return f"{'half of them' if self.is_median else 'all of them'} up to {self.largest}"


def check_equal(
    model: Any,
    structure: Structure,
    weights_by_layer: Sequence[ExpertWeights | None],
    prompts: dict[tuple[int, ...], Tensor],
    limit: ErrorLimit,
) -> None:
    """Raises ModelRefused unless prompts get the same logits in two chunks and a step, one row, from scattered blocks.

    Args:
        model: The model, its layers with boundaries and its implementations replaced.
        structure: What the probe found.
        weights_by_layer: Experts of each layer.
        prompts: Logits (V,) of each prompt, by the model as it was.
        limit: Relative errors that rounding explains.
    """
    errors = _errors(model, structure, weights_by_layer, prompts, whole=False)
    if not limit.holds(errors):
        raise ModelRefused(
            f"this {model.config.model_type} computes something else when it is suspended and its cache is paged "
            f"(relative errors of the logits {_in_words(errors)}; {limit} are explained by rounding): it keeps state "
            "that is not seen here"
        )


def settle_whole_layers(
    model: Any,
    structure: Structure,
    weights_by_layer: Sequence[ExpertWeights | None],
    prompts: dict[tuple[int, ...], Tensor],
    limit: ErrorLimit,
) -> None:
    """Has experts run one by one from now on where all of a layer's together raise, or give other logits than these.

    Arguments are those of `check_equal`, which has passed.
    """
    mixtures = [weights for weights in weights_by_layer if weights is not None and weights.runs_whole]
    if not mixtures:
        return
    try:
        errors = _errors(model, structure, weights_by_layer, prompts, whole=True)
        failure = (
            "" if limit.holds(errors) else f"relative errors of the logits {_in_words(errors)}, {limit} are allowed"
        )
    except Exception as error:  # a kernel refuses such widths or such a type
        check_alive(next(iter(prompts.values())).device, error)
        failure = f"{type(error).__name__}: {one_line(error)}"
    if failure:
        logger.warning("experts way=grouped products failed=%r instead=one by one, and no recorded decodes", failure)
        for weights in mixtures:
            weights.give_up_whole()


def _errors(
    model: Any,
    structure: Structure,
    weights_by_layer: Sequence[ExpertWeights | None],
    prompts: dict[tuple[int, ...], Tensor],
    *,
    whole: bool,
) -> list[float]:
    """Relative errors of each prompt's logits."""
    device = next(iter(prompts.values())).device
    logits = _paged_logits(model, structure, weights_by_layer, tuple(prompts), device, whole=whole)
    return [
        float((ours - theirs.double()).norm() / theirs.double().norm())
        for ours, theirs in zip(logits, prompts.values(), strict=True)
    ]


def _in_words(errors: Sequence[float]) -> str:
    return ", ".join(f"{error:.2g}" for error in errors)


def _paged_logits(
    model: Any,
    structure: Structure,
    weights_by_layer: Sequence[ExpertWeights | None],
    prompts: Sequence[tuple[int, ...]],
    device: torch.device,
    *,
    whole: bool,
) -> Tensor:
    """Logits (prompts, V) after each prompt, run in one row, in two chunks and a step, from scattered blocks."""
    store = UnifiedDynamicCache(BlockLedger(16 * len(prompts), block_size=2, num_host_blocks=0), device)
    tables = [store.new_table(seq_id) for seq_id in range(len(prompts))]
    for number, table in enumerate(tables):
        store.extend(table, range(number, store.num_blocks, len(tables)))
    logits = torch.empty(0)
    for part in range(3):  # the beginning of each prompt, all but its last token, and that
        spans: list[Span] = []
        token_ids: list[int] = []
        for table, prompt in zip(tables, prompts, strict=True):
            start, stop = _parts(len(prompt))[part]
            table.begin(start, stop - start)
            spans.append(Span(table, len(token_ids), stop - start, start))
            token_ids += prompt[start:stop]
        positions = torch.cat([torch.arange(span.first_position, span.length) for span in spans])
        cache = RaggedCache(store, spans, structure.latent_layers, structure.own_layers)
        rows = torch.tensor([span.stop - 1 for span in spans], device=device)
        ids = torch.tensor(token_ids, device=device)
        forward_pass = ForwardPass(
            model,
            structure.experts_by_layer,
            cache,
            ids,
            positions.to(device),
            rows,
            reads_rows_back=structure.reads_rows_back,
        )
        logits = _run(forward_pass, weights_by_layer, whole=whole)
        for table in tables:
            table.commit()
    return logits.double()


def _parts(length: int) -> tuple[tuple[int, int], ...]:
    """Where a prompt is cut: two chunks and the last token, which is a step of decoding."""
    return (0, length // 2), (length // 2, length - 1), (length - 1, length)


def _run(forward_pass: ForwardPass, weights_by_layer: Sequence[ExpertWeights | None], *, whole: bool) -> Tensor:
    """Runs a pass from end to end, whole layers at once or expert by expert, and returns its logits (rows, V)."""
    try:
        while forward_pass.cursor < Cursor(len(weights_by_layer)):
            queues, weights = forward_pass.queues, weights_by_layer[forward_pass.cursor.layer]
            if forward_pass.cursor.stage is Stage.ATTENTION or queues is None or weights is None:
                takes_whole = whole and weights is not None and weights.runs_whole
                forward_pass.run_attention(weights.run_whole if weights is not None and takes_whole else None)
                continue
            while not queues.is_done:
                run_jointly(weights, [queues], queues.next_expert)
            forward_pass.deliver()
        if forward_pass.logits is None:
            raise ModelRefused("a forward pass ended without logits")
        return forward_pass.logits
    finally:
        forward_pass.close()
