"""Owns the forms that a weight matrix is kept in, and puts a model's linear layers into one of them.

    dense     rows as the checkpoint has them; any device and type
    packed    the order in which oneDNN's kernels read: 2 to 3 times as fast on a CPU, and in packing the only copy

It knows no experts, no attention and no families: a matrix is a matrix.
"""

from collections import Counter
from collections.abc import Callable, Set
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Matrix(Protocol):
    """A linear map whose weight lies in some form."""

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out)."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        ...


MatrixForm = Callable[[Tensor, Tensor | None], Matrix]
"""Makes a matrix of a weight (out, in), in any strides, and a bias (out,)."""


class DenseMatrix:
    """A weight as it is: a view of whatever holds it."""

    __slots__ = ("_bias", "_weight")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out)."""
        return linear(x, self._weight, self._bias)

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self._weight.nbytes + (0 if self._bias is None else self._bias.nbytes)


class PackedMatrix:
    """A weight in oneDNN's own order, which is made once, here. Nothing is kept of the tensor that it was made from.

    Attributes:
        weight: The weight (out, in), opaque to everything but oneDNN.
    """

    __slots__ = ("_bias", "_run", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._run = torch.ops.mkldnn._linear_pointwise.default
        self._bias = None if bias is None else bias.clone()
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out)."""
        y: Tensor = self._run(x, self.weight, self._bias, "none", [], "")
        return y

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self.weight.nbytes + (0 if self._bias is None else self._bias.nbytes)


class PackedLinear(nn.Module):
    """Stands in for a linear layer of a model.

    Attributes:
        weight: The weight (out, in) for whoever asks for its type or place; arithmetic on it raises.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.matrix = PackedMatrix(layer.weight, layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out)."""
        return self.matrix(x)

    @property
    def weight(self) -> Tensor:
        """The weight (out, in) for whoever asks for its type or place; arithmetic on it raises."""
        return self.matrix.weight


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN runs packed weights of a type here, found out by trying."""
    if device.type != "cpu":
        return False
    one = torch.ones(1, 1, dtype=dtype)
    try:
        return bool(PackedMatrix(one, None)(one) == one)
    except (AttributeError, RuntimeError):  # a torch without the operators; a type that this CPU can't multiply
        return False


def pack_linears(model: nn.Module, called: Set[nn.Module]) -> int:
    """Replaces the linear layers of a model by packed ones, and lets go of the dense weights as it goes.

    A layer stays as it is if it is no plain `nn.Linear`, if others hook into it, or if its weight is somebody else's too, such as
    the token embeddings': those need rows, and a packed copy would be a second one. So does one that nobody calls: its parent
    reads the weight itself.

    Args:
        model: The model.
        called: Linear layers that a forward of the model calls.

    Returns:
        How many were packed.
    """
    holders = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    num_packed = 0
    parents = [module for module in model.modules() if not isinstance(module, nn.Linear)]  # would hold what is let go
    for parent in parents:
        for name, layer in list(parent.named_children()):
            if (
                type(layer) is nn.Linear
                and layer in called
                and not _is_hooked(layer)
                and holders[id(layer.weight)] == 1
            ):
                setattr(parent, name, PackedLinear(layer))
                num_packed += 1
    return num_packed


def _is_hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
