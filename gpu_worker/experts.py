"""Owns how experts run: their weights, the queues of tokens that wait for them, and joint runs for several passes.

An expert runs once over the tokens of every pass that waits for it at the same layer. A token's outputs accumulate in
ascending order of expert whatever is interleaved, so interleaving changes no result. It knows no attention, no cache and no
sequences.

Source: arXiv 2503.09304
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


@dataclass(frozen=True, slots=True)
class ExpertWork:
    """What a layer asks of its experts.

    Attributes:
        module: The layer's experts module.
        hidden: Input of the experts (T, D).
        expert_ids: Experts chosen for each token (T, K).
        weights: Factor on each chosen expert's output (T, K).
    """

    module: nn.Module
    hidden: Tensor
    expert_ids: Tensor
    weights: Tensor


class ExpertWeights(Protocol):
    """The weights of one layer's experts, in whatever form they are kept."""

    def run(self, expert: int, x: Tensor) -> Tensor:
        """Output of one expert for x (N, D), before the routing weight: (N, D)."""
        ...


class DenseExperts:
    """Experts kept as transformers loads them: one 3-D parameter a projection, sliced by expert.

    Args:
        module: A module made by `use_experts_implementation`; its flags say how the weights lie.
    """

    def __init__(self, module: nn.Module) -> None:
        flags: Any = module  # its flags are set at run time, by transformers' decorator
        up = "gate_up_proj" if flags.has_gate else "up_proj"
        self._up, self._down = _parameter(module, up), _parameter(module, "down_proj")  # (E, ., .)
        self._up_bias = _parameter(module, f"{up}_bias") if flags.has_bias else None  # (E, .)
        self._down_bias = _parameter(module, "down_proj_bias") if flags.has_bias else None  # (E, D)
        self._is_transposed: bool = flags.is_transposed
        # Concatenated and interleaved gates (is_concatenated) both know their own layout in _apply_gate.
        self._activate: Callable[[Tensor], Tensor] = flags._apply_gate if flags.has_gate else flags.act_fn
        self._norm: Callable[[Tensor], Tensor] | None = flags.post_expert_norm if flags.has_post_expert_norm else None

    def run(self, expert: int, x: Tensor) -> Tensor:
        """Output of one expert for x (N, D), before the routing weight: (N, D)."""
        y = self._project(x, self._up, self._up_bias, expert)  # (N, 2 * intermediate)
        y = self._project(self._activate(y), self._down, self._down_bias, expert)  # (N, D)
        return y if self._norm is None else self._norm(y)

    def _project(self, x: Tensor, weights: Tensor, biases: Tensor | None, expert: int) -> Tensor:
        weight = weights[expert].t() if self._is_transposed else weights[expert]  # (out, in)
        return linear(x, weight, None if biases is None else biases[expert])


class ExpertQueues:
    """The tokens of one suspended pass that wait for the experts of one layer, and what came out so far.

    Args:
        work: What the layer asks for.
        num_experts: Experts of the layer; an id past them (an expert on no device) is no work.
        live_rows: Mask (T,) of the tokens to compute, None for all.
    """

    def __init__(self, work: ExpertWork, num_experts: int, live_rows: Tensor | None) -> None:
        self._work = work
        self._num_experts = num_experts
        dtype = torch.promote_types(work.hidden.dtype, work.weights.dtype)
        self._output = torch.zeros_like(work.hidden, dtype=dtype)  # (T, D)
        self._sort(live_rows)
        self.next_expert = self._next_from(0)

    @property
    def is_done(self) -> bool:
        """Whether no token waits any more."""
        return self.next_expert == self._num_experts

    def num_tokens(self, expert: int) -> int:
        """Tokens that wait for an expert."""
        return self._bounds[expert + 1] - self._bounds[expert]

    def inputs(self, expert: int) -> Tensor:
        """Input of the tokens that wait for an expert (N, D)."""
        return self._work.hidden.index_select(0, self._tokens[self._slice(expert)])

    def give(self, expert: int, y: Tensor) -> None:
        """Adds an expert's output y (N, D), weighted, to its tokens, and goes on to the next expert that has any."""
        where = self._slice(expert)
        weighted = y * self._weights[where, None]  # (N, D)
        self._output.index_add_(0, self._tokens[where], weighted.to(self._output.dtype))
        self.next_expert = self._next_from(expert + 1)

    def keep(self, live_rows: Tensor) -> None:
        """Takes the tokens that are not in the mask (T,) out of the queues."""
        self._sort(live_rows)
        self.next_expert = self._next_from(self.next_expert)

    def result(self) -> Tensor:
        """The summed output of all experts (T, D), in the type of the input."""
        return self._output.to(self._work.hidden.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes held: hidden states, routing, queues and partial outputs."""
        work = self._work
        held = (work.hidden, work.expert_ids, work.weights, self._tokens, self._weights, self._output)
        return sum(tensor.nbytes for tensor in held)

    def _sort(self, live_rows: Tensor | None) -> None:
        """Lays the (token, expert) pairs out by expert, and within an expert by token."""
        expert_ids, K = self._work.expert_ids, self._work.expert_ids.shape[1]
        if live_rows is not None:
            expert_ids = expert_ids.masked_fill(~live_rows[:, None], self._num_experts)  # (T, K)
        flat = expert_ids.flatten()  # (T * K,)
        order = flat.argsort(stable=True)  # (T * K,)
        counts = flat.clamp(max=self._num_experts).bincount(minlength=self._num_experts + 1)  # (E + 1,)
        self._bounds: list[int] = [0, *counts[:-1].cumsum(0).tolist()]
        order = order[: self._bounds[-1]]
        self._tokens = order // K  # (pairs,)
        self._weights = self._work.weights.flatten()[order]  # (pairs,)

    def _slice(self, expert: int) -> slice:
        return slice(self._bounds[expert], self._bounds[expert + 1])

    def _next_from(self, expert: int) -> int:
        """Lowest expert from `expert` on that has tokens, or the number of experts."""
        return next((e for e in range(expert, self._num_experts) if self.num_tokens(e)), self._num_experts)


def run_jointly(weights: ExpertWeights, queues: Sequence[ExpertQueues], expert: int) -> int:
    """Runs one expert once over the tokens of all the queues.

    Nothing has changed if it raises.

    Returns:
        The tokens that it ran over.
    """
    inputs = [queue.inputs(expert) for queue in queues]  # (N, D) each
    outputs = weights.run(expert, inputs[0] if len(inputs) == 1 else torch.cat(inputs))  # (sum of N, D)
    sizes = [len(x) for x in inputs]
    for queue, y in zip(queues, torch.split(outputs, sizes), strict=True):
        queue.give(expert, y)
    return sum(sizes)


def _parameter(module: nn.Module, name: str) -> Tensor:
    parameter = getattr(module, name)
    if not isinstance(parameter, Tensor):
        raise TypeError(f"{type(module).__name__}.{name} is no tensor")
    return parameter
