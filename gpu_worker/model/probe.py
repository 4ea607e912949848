"""Finds out how a model works by running it once, with attention and experts that compute nothing and note who asks.

It decides what can't be served because of what the model does; `inspection` decides by what the model is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.masking_utils import AttentionMaskInterface

from gpu_worker.attention.interface import is_stand_in, stand_in_mask
from gpu_worker.cache.argument import cache_argument
from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.own_layer import OwnLayers
from gpu_worker.cache.ragged import RaggedCache
from gpu_worker.cache.span import Span
from gpu_worker.cache.state import LayerState
from gpu_worker.cache.unified import UnifiedDynamicCache
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.errors import ModelRefused
from gpu_worker.experts.queues import is_experts

_PROBE = "qllm_probe"
_PROBE_TOKENS = 4
# What models pass to attention besides these would change its result in a way that is not computed here.
_KNOWN_ARGUMENTS = {
    "dropout",
    "scaling",
    "sliding_window",
    "s_aux",
    "indices",
    "position_bias",
    "sinks",
    "softcap",
    "is_causal",
    "position_ids",
    "position_embeddings",
}


@dataclass(frozen=True, slots=True)
class Structure:
    """What a probing forward found.

    Attributes:
        experts_modules: Experts module of each decoder layer, None for a layer without a mixture.
        num_experts_per_token: Experts chosen for each token.
        latent_layers: Layers that expand the rows which the cache returns.
        own_layers: Layers with a memory of their own, if there are any.
        state_layers: Layers that keep anything of a sequence besides a row for each token, rising.
        single_modules: Modules that must be run for one sequence at a time.
        reads_rows_back: Whether something behind the last layer's attention goes through the
            text, and so reads all of its rows.
        called_linears: Linear layers that were called; a weight that is only ever read by others is not among them.
        vocab_size: Width of the logits.
    """

    experts_modules: tuple[nn.Module | None, ...]
    num_experts_per_token: int
    latent_layers: frozenset[int]
    own_layers: OwnLayers | None
    state_layers: tuple[int, ...]
    single_modules: tuple[nn.Module, ...]
    reads_rows_back: bool
    called_linears: frozenset[nn.Module]
    vocab_size: int

    @property
    def experts_by_layer(self) -> tuple[int, ...]:
        """Experts of each decoder layer, 0 for one without a mixture."""
        return tuple(0 if m is None else int(m.num_experts) for m in self.experts_modules)  # type: ignore[arg-type]


@dataclass(slots=True)
class _LayerNotes:
    """What one layer did in a probing forward."""

    stored: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    attended: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    experts: list[nn.Module] = field(default_factory=list)
    storing: nn.Module | None = None  # the module that stores K/V
    stateful: dict[nn.Module, None] = field(default_factory=dict)  # the modules that keep a state, in order
    reads_rows_back: bool = False  # whether a state is asked for after attention or experts
    is_alone: bool = False  # whether its attention means rows of one sequence

    def single_modules(self) -> list[nn.Module]:
        """Those that see one sequence at a time: keepers of state, attention that names or weighs rows by number."""
        attending = [self.storing] if self.is_alone and self.storing is not None else []
        return [*self.stateful, *attending]


class _ProbeCache(RaggedCache):
    """The cache of one new sequence, which notes who asks for what and keeps no K/V."""

    def __init__(
        self,
        notes: Sequence[_LayerNotes],
        running: Sequence[nn.Module],
        num_tokens: int,
        own_layers: OwnLayers,
    ) -> None:
        store = UnifiedDynamicCache(BlockLedger(0, 1, 0), torch.device("cpu"))
        table = BlockTable(0, num_tokens, torch.device("cpu"))
        super().__init__(store, [Span(table, 0, num_tokens, 0)], frozenset(), own_layers)
        self._notes = notes
        self._running = running

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        self._notes[layer_idx].storing = self._running[-1]
        if self.is_own(layer_idx):
            self._notes[layer_idx].is_alone = True
            return super().update(key_states, value_states, layer_idx)
        self._notes[layer_idx].stored.append((key_states, value_states))
        return key_states, value_states

    def update_indexer(self, indexer_key_states: Tensor, layer_idx: int) -> Tensor:
        self._notes[layer_idx].is_alone = True
        return indexer_key_states

    def _state(self, layer: int) -> LayerState:
        notes = self._notes[layer]
        notes.stateful[self._running[-1]] = None
        notes.reads_rows_back |= bool(notes.experts or notes.attended)
        return super()._state(layer)


class _Probe:
    """One forward with attention and experts that compute nothing and note who asked."""

    def __init__(self, family: str, num_layers: int, own_layers: OwnLayers) -> None:
        self.family = family
        self.own_layers = own_layers
        self.notes = [_LayerNotes() for _ in range(num_layers)]
        self.layer = -1
        self.num_experts_per_token = 0
        self.running: list[nn.Module] = []  # modules whose forward is under way, the innermost last
        self.called_linears: set[nn.Module] = set()

    def enter(self, *_: Any) -> None:
        self.layer += 1

    def begin(self, module: nn.Module, *_: Any) -> None:
        self.running.append(module)
        if isinstance(module, nn.Linear):
            self.called_linears.add(module)

    def end(self, *_: Any) -> None:
        self.running.pop()

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        unknown = [
            name
            for name, argument in kwargs.items()
            if name not in _KNOWN_ARGUMENTS and argument is not None and not isinstance(argument, bool)
        ]
        if unknown or kwargs.get("is_causal") is False:
            what = ", ".join(unknown) or "both directions"
            raise ModelRefused(f"{self.family}'s attention asks for {what}, which is not computed here")
        is_own = module.layer_idx in self.own_layers.numbers
        notes = self.notes[module.layer_idx]
        if not is_own and not notes.is_alone and not is_stand_in(attention_mask):
            raise ModelRefused(f"{self.family}'s attention makes a mask of its own for several sequences at once")
        if not is_own:
            notes.attended.append((key, value))
        notes.is_alone |= any(kwargs.get(name) is not None for name in ("indices", "position_bias"))
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None  # (1, T, H, width)

    def ask_experts(self, module: nn.Module, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
        self.notes[self.layer].experts.append(module)
        self.num_experts_per_token = expert_ids.shape[1]
        return torch.zeros_like(hidden)

    def judge(self) -> None:
        for layer, notes in enumerate(self.notes):
            if len(notes.stored) != len(notes.attended) or len(notes.stored) > 1:
                raise ModelRefused(
                    f"layer {layer} of this {self.family} stores K/V {len(notes.stored)} times and attends "
                    f"{len(notes.attended)} times in a forward, not once each or never: its state is not K/V "
                    "of its own tokens"
                )
            if len(notes.experts) > 1:
                raise ModelRefused(
                    f"layer {layer} of this {self.family} has {len(notes.experts)} mixtures of experts, not one"
                )
        if self.layer != len(self.notes) - 1:
            raise ModelRefused(f"this {self.family} runs {self.layer + 1} layers in a forward, not {len(self.notes)}")


def probe(model: Any, layers: nn.ModuleList) -> Structure:
    """Runs a forward that shows how the model uses cache, attention and experts.

    Raises:
        ModelRefused: It does so in a way that can't be served.
    """
    own_layers = OwnLayers(model.config.get_text_config())
    found = _Probe(model.config.model_type, len(layers), own_layers)
    AttentionInterface.register(_PROBE, found.attend)
    AttentionMaskInterface.register(_PROBE, stand_in_mask)
    ALL_EXPERTS_FUNCTIONS.register(_PROBE, found.ask_experts)
    use_implementations(model, _PROBE, _PROBE)
    hooks = [layer.register_forward_pre_hook(found.enter) for layer in layers]
    for module in model.modules():
        hooks += [module.register_forward_pre_hook(found.begin), module.register_forward_hook(found.end)]
    inputs = forward_inputs(model, range(_PROBE_TOKENS))
    cache = _ProbeCache(found.notes, found.running, _PROBE_TOKENS, own_layers)
    argument = cache_argument(model)
    cache.stands_for = argument.of_class
    try:
        logits = model(**inputs, **{argument.name: cache}, use_cache=True).logits
    finally:
        for hook in hooks:
            hook.remove()
    found.judge()
    if logits.shape[:2] != (1, 1):
        raise ModelRefused(f"this {found.family} computes logits of tokens that it was not asked for (logits_to_keep)")
    latent = frozenset(
        layer
        for layer, notes in enumerate(found.notes)
        if notes.stored and not _same(notes.attended[0], notes.stored[0])
    )
    experts = tuple(next(iter(notes.experts), None) for notes in found.notes)
    single = tuple(module for notes in found.notes for module in notes.single_modules())
    return Structure(
        experts,
        found.num_experts_per_token,
        latent,
        own_layers if own_layers.numbers else None,
        tuple(layer for layer, notes in enumerate(found.notes) if notes.stateful or layer in own_layers.numbers),
        single,
        found.notes[-1].reads_rows_back,
        frozenset(found.called_linears),
        logits.shape[-1],
    )


def use_implementations(model: Any, attention: str, experts: str) -> None:
    """Makes a model's attention and experts, where it has any, go to the named implementations."""
    model.set_attn_implementation(attention)
    replaced = model.config._attn_implementation == attention  # its own names
    if has_experts(model):
        model.set_experts_implementation(experts)
        replaced = replaced and model.config._experts_implementation == experts
    if not replaced:
        raise ModelRefused(f"{model.config.model_type} does not let its attention or its experts be replaced")


def has_experts(model: nn.Module) -> bool:
    """Whether a model has experts behind transformers' use_experts_implementation."""
    return any(is_experts(module) for module in model.modules())


def forward_inputs(model: Any, token_ids: Sequence[int], first_position: int = 0) -> dict[str, Tensor]:
    """Arguments of a forward over tokens of one sequence, with logits for the last."""
    device = model.get_input_embeddings().weight.device
    positions = torch.arange(first_position, first_position + len(token_ids), device=device)
    return {
        "input_ids": torch.tensor([list(token_ids)], device=device),  # (1, T)
        "position_ids": positions[None],  # (1, T)
        "logits_to_keep": torch.tensor([len(token_ids) - 1], device=device),
    }


def _same(given: tuple[Tensor, Tensor], returned: tuple[Tensor, Tensor]) -> bool:
    return given[0] is returned[0] and given[1] is returned[1]
