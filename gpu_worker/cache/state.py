"""What the layers of one sequence carry from token to token besides K/V: inputs of a convolution, a recurrent state.

    finished   as the last finished iteration left it   ──copy at the first access──▶   under way   ──commit──▶ finished

Such a state is of one size however long the text, and every token overwrites it. So an iteration changes a copy,
which becomes the sequence's own once the iteration is over: one that fails or is dropped half-way has changed
nothing, as with K/V.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import pad


class Numbered(dict[int, Tensor]):
    """Tensors by the number that a model gives them; a missing one is None, as in transformers' cache layers."""

    def __missing__(self, number: int) -> None:
        return None


@dataclass(slots=True)
class LayerState:
    """The state of one layer of one sequence; its names are those of transformers' cache layers.

    Attributes:
        conv_states: Last inputs of a causal convolution (1, channels, width).
        recurrent_states: States of a recurrence, in the model's own shape.
        record_past: Whether states of every token are kept; never.
    """

    conv_states: Numbered = field(default_factory=Numbered)
    recurrent_states: Numbered = field(default_factory=Numbered)
    record_past: bool = False

    def push(self, inputs: Tensor, number: int, width: int | None) -> Tensor:
        """Takes in new inputs of a convolution and keeps the last of all.

        Args:
            inputs: (1, channels, n).
            number: Which of the layer's convolutions.
            width: Inputs to keep; None is what is kept already, or all of the first.

        Returns:
            What the convolution runs over: the inputs kept so far, then the new ones; the first padded to width.
        """
        kept = self.conv_states[number]
        if width is None:
            width = (inputs if kept is None else kept).shape[-1]
        lacking = max(0, width - inputs.shape[-1])
        joined = pad(inputs, (lacking, 0)) if kept is None else torch.cat([kept, inputs], dim=-1)
        self.conv_states[number] = joined[..., -width:].clone()
        return joined

    def to(self, device: torch.device) -> "LayerState":
        """A copy on a device."""
        conv, recurrent = (
            Numbered({number: tensor.to(device, copy=True) for number, tensor in tensors.items()})
            for tensors in (self.conv_states, self.recurrent_states)
        )
        return LayerState(conv, recurrent)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(tensor.nbytes for tensor in (*self.conv_states.values(), *self.recurrent_states.values()))


class Kept(Protocol):
    """What a layer keeps of one sequence."""

    def to(self, device: torch.device) -> "Kept":
        """A copy on a device."""

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""


KeptT = TypeVar("KeptT", bound=Kept)


class RecurrentState:
    """The states of one sequence's layers.

    Args:
        device: Where they lie.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._finished: dict[int, Kept] = {}
        self._under_way: dict[int, Kept] = {}

    def begin(self, *, is_first: bool) -> None:
        """Begins an iteration; the first of a sequence begins from nothing, whatever an earlier try left."""
        self._under_way = {}
        if is_first:
            self._finished = {}

    def layer(self, layer: int, new: Callable[[], KeptT]) -> KeptT:
        """The state of a layer, for the iteration under way to read and change; a new one if the sequence has none."""
        if layer not in self._under_way:
            finished = self._finished.get(layer)
            self._under_way[layer] = new() if finished is None else finished.to(self._device)
        state: Any = self._under_way[layer]  # of the type that this layer's first was of
        return cast("KeptT", state)

    def commit(self) -> None:
        """Ends the iteration: what it changed is the sequence's own now."""
        self._finished |= self._under_way
        self._under_way = {}

    def clear(self) -> None:
        """Forgets everything."""
        self._finished, self._under_way = {}, {}

    def move(self, device: torch.device) -> None:
        """Brings everything to a device."""
        self._device = device
        self._finished = {layer: state.to(device) for layer, state in self._finished.items()}
        self._under_way = {layer: state.to(device) for layer, state in self._under_way.items()}

    def copy(self) -> "RecurrentState":
        """What the last finished iteration left, once more."""
        twin = RecurrentState(self._device)
        twin._finished = {layer: state.to(self._device) for layer, state in self._finished.items()}
        return twin

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(state.nbytes for state in (*self._finished.values(), *self._under_way.values()))
