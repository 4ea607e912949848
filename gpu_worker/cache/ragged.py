"""What one forward pass sees of the cache: its sequences, laid end to end in one row of tokens.

    row of the pass    |0 . . . . 5|6|7 . . 10|      three spans: a prompt, a decode token, a chunk of a prompt
    positions          |0 ....... 5|41|128 .131|     each attends to the rows of its own sequence only

It knows where rows lie, and neither the model nor attention.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gpu_worker.cache.block_table import INDEXER
from gpu_worker.cache.layer_views import Layers, LayerView, PositionHistory
from gpu_worker.cache.own_layer import OwnLayer, OwnLayers
from gpu_worker.cache.placement import Placement
from gpu_worker.cache.span import Span
from gpu_worker.cache.state import LayerState
from gpu_worker.cache.unified import Layout, UnifiedDynamicCache
from gpu_worker.errors import PassFailed


class RaggedCache(Cache):
    """The `past_key_values` of one forward pass over the Unified Dynamic Cache.

    Args:
        store: Where the rows go.
        spans: The sequences' parts, in order, end to end from row 0.
        latent_layers: Layers whose `update` must return every cached row, because the model expands what comes back.
        own_layers: Layers with a memory of their own, if there are any; such a layer sees one sequence at a time.

    Attributes:
        spans: The sequences' parts.
        stands_for: The class that the model takes it for: some insist on one of their own.
        history: What a model that asked for the positions of earlier rows was given.
        is_alone: Whether it shows one sequence of a pass to a module that runs for one at a time.
    """

    def __init__(
        self,
        store: UnifiedDynamicCache,
        spans: Sequence[Span],
        latent_layers: frozenset[int],
        own_layers: OwnLayers | None = None,
    ) -> None:
        # Not super().__init__(): it would make layers that concatenate, and here nothing does.
        self.layers: Any = Layers(self._layer_of_model)
        self.spans = spans
        self.stands_for: type[Cache] = RaggedCache
        self.history = PositionHistory(spans, store.device)
        self.is_alone = False
        self._store = store
        self._latent_layers = latent_layers
        self._own_layers = own_layers
        self._placed: tuple[object, Placement] | None = None
        self._masks: dict[tuple[int, int, int, torch.dtype], Tensor] = {}

    @property  # type: ignore[misc]  # isinstance asks here besides the type
    def __class__(self) -> Any:
        return self.stands_for

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Stores the pass's new rows, key_states (1, H, T, width) and value_states likewise.

        Returns:
            Ordinary layers get their arguments back: attention reads the store. Latent layers get all cached rows of
            all sequences that are not dropped, end to end, (1, H, rows, width) each. A layer with a memory of its own
            gets what that gives.
        """
        if self.is_own(layer_idx):
            k, v = self._own_layer(layer_idx).layer.update(key_states, value_states)
            return k, v
        placement = self.placement
        k, v = key_states[0], value_states[0]  # (H, T, width)
        if placement.kept_rows is not None:
            k, v = k.index_select(1, placement.kept_rows), v.index_select(1, placement.kept_rows)
        self._store.write(layer_idx, placement.slots, k, v)
        if layer_idx not in self._latent_layers:
            return key_states, value_states
        runs = [
            run for s in self.spans if not s.dropped for run in self._store.read_runs(layer_idx, s.table, 0, s.length)
        ]
        all_k, all_v = (torch.cat(parts, dim=1)[None] for parts in zip(*runs, strict=True))
        return all_k, all_v

    def alone(self, span: Span) -> "RaggedCache":
        """The cache as a pass of this one sequence would see it, over the same storage."""
        alone = RaggedCache(
            self._store,
            [Span(span.table, 0, span.num_tokens, span.first_position)],
            self._latent_layers,
            self._own_layers,
        )
        alone.stands_for, alone.is_alone = self.stands_for, True
        return alone

    # ---- state of one sequence, see sequencewise

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Last inputs of a convolution (1, channels, width), which the model may change in place; None at the start."""
        return self._state(layer_idx).conv_states[state_idx]

    def update_conv_state(
        self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, conv_kernel_size: int | None = None, **_: Any
    ) -> Tensor:
        """Takes in inputs (1, channels, n) of a convolution and returns them behind those before."""
        return self._state(layer_idx).push(conv_states, state_idx, conv_kernel_size)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """State of a recurrence, which the model may change in place; None at a text's start."""
        return self._state(layer_idx).recurrent_states[state_idx]

    def update_recurrent_state(self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **_: Any) -> Tensor:
        """Replaces the state of a recurrence, and returns it."""
        states = self._state(layer_idx).recurrent_states
        if states[state_idx] is not recurrent_states:
            states[state_idx] = recurrent_states.clone()
        return states[state_idx]

    def update_indexer(self, indexer_key_states: Tensor, layer_idx: int) -> Tensor:
        """Stores new keys (1, n, width) of an indexer, a row for each token, and returns all of the sequence's."""
        span = self._only(layer_idx)
        self._store.write(layer_idx, self.placement.slots, indexer_key_states, kind=INDEXER)
        (keys,) = self._store.read(layer_idx, span.table, 0, span.length, kind=INDEXER)
        return keys

    @property
    def position_ids(self) -> Tensor:
        """Positions of rows before, where a model keeps them in the cache itself; missing as long as there are none."""
        if (before := self.history.read()) is None:
            raise AttributeError("position_ids")
        return before

    @position_ids.setter
    def position_ids(self, position_ids: Tensor) -> None:
        """Nothing: what the model would keep of them is known."""

    def get_linear_cache(self, layer_idx: int) -> Tensor | None:
        """The state of a recurrence, as minimax names it."""
        return self.get_recurrent_state(layer_idx)

    def set_linear_cache(self, layer_idx: int, linear_cache: Tensor) -> None:
        """Replaces it."""
        self.update_recurrent_state(linear_cache, layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """How many rows a mask is for, and the first: all, if a sequence is alone; meaningless for a whole pass."""
        if self.is_alone and self.is_own(layer_idx):
            num_rows, first = self._own_layer(layer_idx).layer.get_mask_sizes(query_length)
            return num_rows, first
        return (self.spans[0].length if self.is_alone else query_length), 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the first new row, likewise."""
        return self.spans[0].first_position if self.is_alone else 0

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether the sequence has a state; False for a pass of several, which only builds masks by it."""
        return len(self.spans) == 1 and self.spans[0].first_position > 0

    def is_recording_past(self, layer_idx: int) -> bool:
        """Always False: nothing is rolled back token by token."""
        return False

    def _state(self, layer: int) -> LayerState:
        return self._only(layer).table.state.layer(layer, LayerState)

    def _own_layer(self, layer: int) -> OwnLayer:
        if self._own_layers is None:
            raise PassFailed(f"layer {layer} has no memory of its own")
        return self._only(layer).table.state.layer(layer, partial(self._own_layers.new, layer))

    def _layer_of_model(self, layer: int) -> Any:
        """What a model finds where transformers' caches have their layers."""
        if self.is_own(layer):
            return self._own_layer(layer).layer
        return LayerView(self.history, partial(self._state, layer))

    def _only(self, layer: int) -> Span:
        if len(self.spans) != 1:
            raise PassFailed(f"layer {layer} asks for the state of one sequence while {len(self.spans)} are on stage")
        return self.spans[0]

    # ---- K/V

    def is_own(self, layer: int) -> bool:
        """Whether the layer has a memory of its own, whose rows its attention is given with a mask."""
        return self._own_layers is not None and layer in self._own_layers.numbers

    def is_latent(self, layer: int) -> bool:
        """Whether the layer's attention is given every cached row, rather than reading the store."""
        return layer in self._latent_layers

    @property
    def placement(self) -> Placement:
        """Where the rows of the pass lie now."""
        state = Placement.state(self.spans)
        if self._placed is None or self._placed[0] != state:
            self._placed = (state, Placement(self.spans, self._store.block_size, self._store.device))
        return self._placed[1]

    def pages(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """K and V of all sequences' slots (slots, H, width) each, if they lie in pages."""
        if self._store.layout is not Layout.PAGES or self.is_latent(layer):
            return None
        k, v = self._store.slots_first(layer)
        return k, v

    @property
    def block_size(self) -> int:
        """Rows in one block."""
        return self._store.block_size

    def read(self, layer: int, span: Span, start: int) -> tuple[Tensor, Tensor]:
        """K and V of a span's sequence from row `start` to its last row of this pass, (H, rows, width) each."""
        k, v = self._store.read(layer, span.table, start, span.length)
        return k, v

    def read_runs(self, layer: int, span: Span, start: int) -> list[tuple[Tensor, Tensor]]:
        """The same in pieces that lie end to end in the sequence, without a copy if they are few."""
        return [(k, v) for k, v in self._store.read_runs(layer, span.table, start, span.length)]

    def read_only(self, layer: int) -> tuple[Tensor, Tensor]:
        """K and V of all rows of the only sequence, (H, rows, width) each."""
        return self.read(layer, self._only(layer), 0)

    def mask(self, span: Span, start: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What a span's tokens see of rows from `start` on: (num_tokens, length - start), 0 where visible, else -inf.

        Kept until the pass ends, because most layers ask for the same one.
        """
        wanted = (span.start, start, window or 0, dtype)
        if wanted not in self._masks:
            queries = torch.arange(span.first_position, span.length, device=device)[:, None]  # (T, 1)
            keys = torch.arange(start, span.length, device=device)[None]  # (1, rows)
            hidden = keys > queries if window is None else (keys > queries) | (keys <= queries - window)  # (T, rows)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
            self._masks[wanted] = mask.masked_fill_(hidden, float("-inf"))
        return self._masks[wanted]

    @property
    def nbytes(self) -> int:
        """Bytes that this pass's view holds by itself: masks and indices."""
        indices = self._placed[1].nbytes if self._placed else 0
        return indices + sum(mask.nbytes for mask in self._masks.values())

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        """Always 0: positions are given to the model, and sequences differ in length."""
        return 0
