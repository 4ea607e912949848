"""What models find where they reach past a cache's methods into its layers.

    past_key_values.layers[3].conv_states              a layer's state of the only sequence (transformers before 5.18)
    past_key_values.layers[0].indexer_position_ids     positions of all rows before, kept there by some models

It knows no storage and no attention.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gpu_worker.cache.span import Span
from gpu_worker.cache.state import LayerState
from gpu_worker.machine.devices import to_device


class Layers:
    """What older models of transformers reach into a cache for: the state of one layer of the only sequence.

    It counts no layers, so that transformers takes every sequence for new when it prepares
    masks, which stand for nothing here.
    """

    def __init__(self, layer_of: Callable[[int], Any]) -> None:
        self._layer_of = layer_of

    def __getitem__(self, layer: int) -> Any:
        return self._layer_of(layer)

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0


class PositionHistory:
    """Positions of rows before those of a pass, which some models keep beside a layer's K/V and which are known here.

    Args:
        spans: The sequences of the pass, end to end.
        device: Where the model computes.

    Attributes:
        was_read: Whether the model asked for them.
    """

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        self._spans = spans
        self._device = device
        self.was_read = False

    def read(self) -> Tensor | None:
        """They, end to end, as a model of three-part positions has them (3, 1, rows); None if there are none."""
        self.was_read = True
        before = torch.cat([torch.arange(span.first_position) for span in self._spans])
        return to_device(before, self._device).expand(3, 1, -1) if len(before) else None


class LayerView:
    """What a model reaches into a cache for: a layer's state of the only sequence, or the positions of earlier rows."""

    def __init__(self, history: PositionHistory, state: Callable[[], LayerState]) -> None:
        vars(self).update(_history=history, _state=state)

    def __getattr__(self, name: str) -> Any:
        return self._history.read() if name == "indexer_position_ids" else getattr(self._state(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "indexer_position_ids":  # what the model would keep of them is known
            setattr(self._state(), name, value)
