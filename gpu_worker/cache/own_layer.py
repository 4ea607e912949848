"""Memory of a layer that is a model's own invention: transformers' cache layer of one sequence, kept as a state.

Some families compress what a layer has seen into a memory of a kind of its own (deepseek_v4), with a cache layer of
their own beside their modeling code. Such a layer is taken as it is: an object for each sequence, of which all tensors
are copied where a state is. It grows outside of the blocks. It knows no family.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


class OwnLayer:
    """One sequence's memory of one layer.

    Args:
        layer: transformers' cache layer of one sequence.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def to(self, device: torch.device) -> "OwnLayer":
        """A copy on a device."""
        moved = copy(self.layer)
        for name, value in vars(self.layer).items():
            setattr(moved, name, _copied(value, device))
        return OwnLayer(moved)

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors; those that are one and the same count once."""
        tensors = {tensor.data_ptr(): tensor.nbytes for tensor in _tensors(vars(self.layer))}
        return sum(tensors.values())


class OwnLayers:
    """Which layers of a model have a memory of their own, and new ones for a sequence.

    Args:
        config: The model's configuration, of its text part.
    """

    def __init__(self, config: Any) -> None:
        layers = DynamicCache(config=config).layers
        self._empty = {number: OwnLayer(layer) for number, layer in enumerate(layers) if _is_own(layer)}
        self.numbers = frozenset(self._empty)

    def new(self, number: int) -> OwnLayer:
        """The memory of a layer of a sequence that begins."""
        return self._empty[number].to(torch.device("cpu"))  # it has no rows yet, and goes where its first ones are


def _is_own(layer: Any) -> bool:
    """Whether a cache layer comes with a model rather than with transformers' caches."""
    return type(layer).__module__.startswith("transformers.models.")


def _copied(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if isinstance(value, dict):
        return {key: _copied(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item, device) for item in value]
    return value


def _tensors(values: Mapping[str, Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values.values():
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict):
            found += _tensors(value)
        elif isinstance(value, list):
            found += _tensors(dict(enumerate(value)))  # type: ignore[arg-type]
    return found
