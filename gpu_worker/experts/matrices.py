"""Owns the forms that a weight matrix is kept in, and puts a model's linear layers into one of them.

    dense     rows as the checkpoint has them; any device and type
    packed    the order in which oneDNN's kernels read: 2 to 3 times as fast on a CPU, and in packing the only copy

It knows no experts, no attention and no families: a matrix is a matrix.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from types import MappingProxyType
from typing import Literal, Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from gpu_worker.machine import onednn

Scheme = Literal["int8", "bnb-4bit", "bnb-4bit-fp4", "bnb-8bit"]
"""Ways to quantize a matrix; `quantization` has their forms."""

ANY_ROWS = sys.maxsize


class Matrix(Protocol):
    """A linear map whose weight lies in some form."""

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out)."""
        ...

    def set_bias(self, bias: Tensor | None) -> None:
        """Gives it a bias (out,), or none."""
        ...

    @property
    def most_rows(self) -> int:
        """Rows beyond which one product of many takes no less time than several of fewer."""
        ...

    @property
    def weight(self) -> Tensor:
        """A tensor of the type and place of what it computes with; what it holds is nobody else's business."""
        ...

    @property
    def num_weights(self) -> int:
        """Elements of the weight (out, in)."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        ...


MatrixForm = Callable[[Tensor, Tensor | None], Matrix]
"""Makes a matrix of a weight (out, in), in any strides, and a bias (out,)."""

Arrived = Mapping[tuple[nn.Module, str], Sequence[Matrix]]
"""Matrices made while their weights were read, by module and tensor's name: one an expert, or a linear layer's."""

NONE_ARRIVED: Arrived = MappingProxyType({})


class DenseMatrix:
    """A weight as it is: a view of whatever holds it.

    Attributes:
        weight: The weight (out, in).
    """

    __slots__ = ("_bias", "weight")

    most_rows = ANY_ROWS

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.set_bias(bias)

    def set_bias(self, bias: Tensor | None) -> None:
        """Gives it a bias (out,), or none."""
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out)."""
        return linear(x, self.weight, self._bias)

    @property
    def num_weights(self) -> int:
        """Elements of the weight."""
        return self.weight.numel()

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self.weight.nbytes + (0 if self._bias is None else self._bias.nbytes)


class PackedMatrix:
    """A weight in oneDNN's own order, which is made once, here. Nothing is kept of the tensor that it was made from.

    Attributes:
        weight: The weight, opaque to everything but oneDNN.
        shape: Its (out, in).
        row_counts: For each number of rows from 0 on, with how many to run, filled up with zeros; beyond, with as many
            as there are. See `row_counts`.
    """

    __slots__ = ("_bias", "row_counts", "shape", "weight")

    # What so many give stays in a cache, and oneDNN prepares itself anew, in 0.2 ms, for no more numbers than these.
    most_rows = 256

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.shape = (weight.shape[0], weight.shape[1])
        self.row_counts: tuple[int, ...] = ()
        self.weight: Tensor = onednn.pack(weight)
        self.set_bias(bias)

    def set_bias(self, bias: Tensor | None) -> None:
        """Gives it a bias (out,), or none."""
        self._bias = None if bias is None else bias.clone()

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out)."""
        num_rows = x.numel() // x.shape[-1]
        if num_rows < len(self.row_counts) and (count := self.row_counts[num_rows]) > num_rows:
            filled_up = pad(x.reshape(num_rows, -1), (0, 0, 0, count - num_rows))  # (count, in)
            return self.product(filled_up)[:num_rows].view(*x.shape[:-1], -1)
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out), with as many rows as it has."""
        return onednn.product(x, self.weight, self._bias)

    @property
    def num_weights(self) -> int:
        """Elements of the weight."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self.weight.nbytes + (0 if self._bias is None else self._bias.nbytes)


class Packing:
    """Packs weights of a type that this CPU packs; those of a shape that oneDNN has no product for stay dense.

    Each shape is tried once, by the first weight that has it.
    """

    def __init__(self) -> None:
        self._packs: dict[tuple[torch.dtype, torch.Size], bool] = {}

    def __call__(self, weight: Tensor, bias: Tensor | None) -> Matrix:
        """Makes a matrix of a weight (out, in), in any strides, and a bias (out,)."""
        kind = (weight.dtype, weight.shape)
        if kind not in self._packs:
            self._packs[kind] = onednn.packs(weight)
        return PackedMatrix(weight, bias) if self._packs[kind] else DenseMatrix(weight, bias)


class MatrixLinear(nn.Module):
    """Stands in for a linear layer of a model.

    Args:
        layer: The layer, of which nothing is kept but, in some forms, its tensors.
        form: What its weight is made into.
    """

    def __init__(self, layer: nn.Linear, form: MatrixForm) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.matrix = form(layer.weight, layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out)."""
        return self.matrix(x)

    @property
    def weight(self) -> Tensor:
        """For whoever asks for the weight's type or place; arithmetic on it raises or means nothing."""
        return self.matrix.weight


def place_linears(model: nn.Module, arrived: Arrived) -> int:
    """Puts matrices that have arrived where their linear layers were, and returns how many those are."""
    return _swap(
        model, lambda layer: partial(_with_bias, arrived[layer, "weight"][0]) if (layer, "weight") in arrived else None
    )


def can_replace(layer: nn.Module, holders: Mapping[int, int]) -> TypeGuard[nn.Linear]:
    """Whether a matrix can stand in for a layer of a model, whose parameters have so many holders each."""
    return type(layer) is nn.Linear and not _is_hooked(layer) and holders[id(layer.weight)] == 1


def holders_of_parameters(model: nn.Module) -> Counter[int]:
    """How many modules hold each parameter, by its identity."""
    return Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())


def _with_bias(matrix: Matrix, _: Tensor, bias: Tensor | None) -> Matrix:
    """A matrix that has arrived, with the bias of its layer."""
    matrix.set_bias(bias)
    return matrix


def replace_linears(model: nn.Module, layers: Set[nn.Module], form: MatrixForm) -> int:
    """Replaces linear layers of a model by matrices of a form, and lets go of the dense weights as it goes.

    A layer stays as it is if it is no plain `nn.Linear`, if others hook into it, or if its weight is somebody else's
    too, such as the token embeddings': those need rows, and a matrix would be a second copy.

    Args:
        model: The model.
        layers: The layers to replace.
        form: What their weights are made into.

    Returns:
        How many were replaced.
    """
    holders = holders_of_parameters(model)
    return _swap(model, lambda layer: form if layer in layers and can_replace(layer, holders) else None)


def _swap(model: nn.Module, form_of: Callable[[nn.Linear], MatrixForm | None]) -> int:
    """Puts matrices where linear layers are that there is a form for, one after another; returns how many those are."""
    num_replaced = 0
    parents = [module for module in model.modules() if not isinstance(module, nn.Linear)]  # would hold what is let go
    for parent in parents:
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) and (form := form_of(layer)) is not None:
                setattr(parent, name, MatrixLinear(layer, form))
                num_replaced += 1
    return num_replaced


def _is_hooked(layer: nn.Module) -> bool:
    """Whether others want to know of its calls, or have wrapped its forward, as tensor parallelism does."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are numbers and finite, in one pass; of types that hold no floats of 16 bits or more, True."""
    if not tensor.is_floating_point() or tensor.element_size() < 2 or not tensor.numel():
        return True
    tensor = getattr(tensor, "to_local", lambda: tensor)()  # a rank looks at its slice
    least, most = torch.aminmax(tensor)  # both are NaN where any value is
    return bool(torch.isfinite(least) & torch.isfinite(most))
