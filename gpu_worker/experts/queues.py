"""Owns how experts run: their weights, the queues of tokens that wait for them, and joint runs for several passes.

An expert runs once over the tokens of every pass that waits for it at the same layer. A token's outputs accumulate in
ascending order of expert whatever is interleaved, so interleaving changes no result. It knows no
attention, no cache and no sequences.

Source: arXiv 2503.09304, section 4 (per-expert queues).
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from gpu_worker.errors import PassFailed
from gpu_worker.experts.matrices import ANY_ROWS, NONE_ARRIVED, Arrived, DenseMatrix, Matrix, MatrixForm
from gpu_worker.machine.devices import is_host, to_device

_FEW_PAIRS = 64  # up to here a loop in Python is as fast as one in a tensor


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

    @property
    def most_rows(self) -> int:
        """Rows that an expert is given at once, at most."""
        ...

    @property
    def runs_whole(self) -> bool:
        """Whether `run_whole` can be called."""
        ...

    def run_whole(self, work: ExpertWork) -> Tensor:
        """What all experts come to for all tokens (T, D), a product for each projection; the host learns no routing."""
        ...

    def give_up_whole(self) -> None:
        """Has `run_whole` be called no more: this device has no such products."""
        ...

    @property
    def num_experts(self) -> int:
        """Experts of the layer."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all experts' weights."""
        ...

    @property
    def num_weights(self) -> int:
        """How many weights those are."""
        ...


PROJECTIONS = ("gate_up_proj", "up_proj", "down_proj")


def is_experts(module: nn.Module) -> bool:
    """Whether a module was made by transformers' use_experts_implementation, whose flags it then has."""
    return hasattr(module, "is_transposed") and hasattr(module, "is_concatenated")


class LayerExperts:
    """The experts of one layer, taken over from a module of the model, each projection a matrix by itself.

    The weights live here, once: dense ones stay in the module's tensors, of which the matrices are slices, and can all
    run at once by transformers' grouped products; others are made of those tensors, which are let go.

    Args:
        module: A module made by `use_experts_implementation`; its flags say how the weights lie.
        form: What the matrices are made into.
        arrived: Matrices that were made while the weights were read, without bias.

    Attributes:
        most_rows: Rows that an expert is given at once, at most.
    """

    def __init__(self, module: nn.Module, form: MatrixForm, arrived: Arrived = NONE_ARRIVED) -> None:
        flags: Any = module  # its flags are set at run time, by transformers' decorator
        up = "gate_up_proj" if flags.has_gate else "up_proj"
        self._up, self._down = (
            _set_biases(module, name, arrived[module, name])
            if (module, name) in arrived
            else _take_matrices(module, name, form)
            for name in (up, "down_proj")
        )
        # Concatenated and interleaved gates (is_concatenated) both know their own layout in _apply_gate.
        self._activate: Callable[[Tensor], Tensor] = flags._apply_gate if flags.has_gate else flags.act_fn
        self._grouped: Callable[..., Tensor] | None = None
        if form is DenseMatrix and not isinstance(flags.down_proj, DTensor):
            self._grouped = ALL_EXPERTS_FUNCTIONS.get("grouped_mm")
        if self._grouped is None:
            for name in (up, "down_proj"):
                setattr(module, name, nn.Parameter(torch.empty(0), requires_grad=False))
        has_norm = getattr(flags, "has_post_expert_norm", False)  # transformers 5.17 does not know it
        self._norm: Callable[[Tensor], Tensor] | None = flags.post_expert_norm if has_norm else None
        self.most_rows = min(matrix.most_rows for matrix in self.matrices)

    @property
    def num_experts(self) -> int:
        """Experts of the layer."""
        return len(self._down)

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """All experts' matrices."""
        return (*self._up, *self._down)

    @property
    def nbytes(self) -> int:
        """Bytes of all experts' matrices."""
        return sum(matrix.nbytes for matrix in self.matrices)

    @property
    def num_weights(self) -> int:
        """Weights of all experts' matrices."""
        return sum(matrix.num_weights for matrix in self.matrices)

    @property
    def runs_whole(self) -> bool:
        """Whether `run_whole` can be called."""
        return self._grouped is not None

    def run_whole(self, work: ExpertWork) -> Tensor:
        """Runs all experts over all their tokens (T, D)."""
        if self._grouped is None:
            raise PassFailed("experts in this form run one by one")
        y: Tensor = self._grouped(work.module, work.hidden, work.expert_ids, work.weights)
        return y

    def give_up_whole(self) -> None:
        """Has `run_whole` be called no more; the weights stay where they are."""
        self._grouped = None

    def run(self, expert: int, x: Tensor) -> Tensor:
        """Output of one expert for x (N, D), before the routing weight: (N, D)."""
        y = self._down[expert](self._activate(self._up[expert](x)))  # (N, D)
        return y if self._norm is None else self._norm(y)


class ExpertQueues:
    """The tokens of one suspended pass that wait for the experts of one layer, and what came out so far.

    Its work is (token, expert) pairs, laid out by expert and within an expert by token. Outputs are summed up
    in this order, several experts' at once where they are small: with few tokens the operations take the time,
    not what they do.

        pairs of expert   |0 . . .|1 .|3 . . . .|4 . .|6 . .|
                          |summed     |given  |waiting      |

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
        self._given: list[Tensor] = []  # (N, D) each, of the pairs from _num_summed on
        self._num_summed = self._num_given = 0
        # A device adds several outputs for one token in no fixed order, so there each expert's are added by themselves.
        self._sum_at = max(len(self._output), _FEW_PAIRS) if is_host(work.hidden.device) else 1
        self._sort(live_rows)

    @property
    def next_expert(self) -> int:
        """The expert that the first pair waits for, or the number of experts if none waits."""
        return bisect_right(self._bounds, self._num_given) - 1

    @property
    def is_done(self) -> bool:
        """Whether no token waits any more."""
        return self._num_given == self._bounds[-1]

    def num_tokens(self, expert: int) -> int:
        """Tokens that wait for an expert."""
        return len(self._waiting(expert))

    def inputs(self, expert: int, most_rows: int = ANY_ROWS) -> Tensor:
        """Input of the first tokens that wait for an expert (N, D)."""
        pairs = self._waiting(expert)[:most_rows]
        return self._work.hidden.index_select(0, self._tokens[pairs.start : pairs.stop])

    def give(self, y: Tensor) -> None:
        """Takes the next expert's output y (N, D) for its first tokens, which then wait no more."""
        self._given.append(y)
        self._num_given += len(y)
        if self._num_given - self._num_summed >= self._sum_at:
            self._sum_up()

    def keep(self, live_rows: Tensor | None) -> None:
        """Takes the tokens that are not in the mask (T,) out of the queues; None keeps all."""
        self._sum_up()
        expert = self.next_expert
        were_given = self._tokens[self._bounds[expert] : self._num_given]  # of the expert that has begun, if one has
        self._sort(live_rows)
        self._num_given = self._bounds[expert]
        if len(were_given):
            # An expert's pairs are in order of their tokens, so those that are left up to the last one given are done.
            waiting = self._waiting(expert)
            self._num_given += int((self._tokens[waiting.start : waiting.stop] <= were_given[-1]).sum())
        self._num_summed = self._num_given

    def result(self) -> Tensor:
        """The weighted sum of the outputs of all experts (T, D), in the type of the input."""
        self._sum_up()
        return self._output.to(self._work.hidden.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes held: hidden states, routing, queues and partial outputs."""
        work = self._work
        held = (work.hidden, work.expert_ids, work.weights, self._tokens, self._weights, self._output, *self._given)
        return sum(tensor.nbytes for tensor in held)

    def _waiting(self, expert: int) -> range:
        """The pairs that wait for an expert."""
        return range(max(self._num_given, self._bounds[expert]), self._bounds[expert + 1])

    def _sum_up(self) -> None:
        """Adds what was given, weighted, to its tokens."""
        if not self._given:
            return
        given = self._given[0] if len(self._given) == 1 else torch.cat(self._given)  # (pairs, D)
        pairs = slice(self._num_summed, self._num_given)
        weighted = given * self._weights[pairs]  # (pairs, D)
        self._output.index_add_(0, self._tokens[pairs], weighted.to(self._output.dtype))
        self._num_summed = self._num_given
        self._given.clear()

    def _sort(self, live_rows: Tensor | None) -> None:
        """Lays the pairs out by expert, and within an expert by token."""
        expert_ids, K = self._work.expert_ids, self._work.expert_ids.shape[1]
        if live_rows is not None:
            expert_ids = expert_ids.masked_fill(~live_rows[:, None], self._num_experts)  # (T, K)
        order, self._bounds = _by_expert(expert_ids.flatten(), self._num_experts)
        self._tokens = order // K  # (pairs,)
        self._weights = self._work.weights.flatten().index_select(0, order)[:, None]  # (pairs, 1)


def run_jointly(weights: ExpertWeights, queues: Sequence[ExpertQueues], expert: int) -> int:
    """Runs one expert once over the tokens of all the queues, the first ones' first if they are too many for one run.

    Nothing has changed if it raises.

    Returns:
        The tokens that it ran over.
    """
    inputs: list[Tensor] = []  # (N, D) each
    room = weights.most_rows
    for queue in queues:
        inputs.append(queue.inputs(expert, room))
        room -= len(inputs[-1])
        if not room:
            break
    if len(inputs) == 1:
        queues[0].give(weights.run(expert, inputs[0]))
        return len(inputs[0])
    sizes = [len(x) for x in inputs]
    outputs = weights.run(expert, torch.cat(inputs))  # (sum of N, D)
    for queue, y in zip(queues, torch.split(outputs, sizes), strict=False):  # some may have had no room
        queue.give(y)
    return sum(sizes)


def _by_expert(expert_ids: Tensor, num_experts: int) -> tuple[Tensor, list[int]]:
    """Sorts pairs (T * K,) by expert, stably, without those of no expert.

    Returns:
        Their numbers in that order (pairs,), and where in it each expert's begin, with the end as the last.
    """
    if len(expert_ids) <= _FEW_PAIRS:
        ids: list[int] = expert_ids.tolist()
        numbers = sorted((number for number, expert in enumerate(ids) if expert < num_experts), key=ids.__getitem__)
        counts = Counter(ids)
        order = to_device(torch.tensor(numbers, dtype=torch.int64), expert_ids.device)
        return order, [0, *accumulate(counts[expert] for expert in range(num_experts))]
    tally = expert_ids.clamp(max=num_experts).bincount(minlength=num_experts + 1)  # (E + 1,)
    bounds: list[int] = [0, *tally[:-1].cumsum(0).tolist()]
    return expert_ids.argsort(stable=True)[: bounds[-1]], bounds


def _set_biases(module: nn.Module, name: str, matrices: Sequence[Matrix]) -> Sequence[Matrix]:
    """Gives matrices that have arrived the biases that the module has for them."""
    flags: Any = module
    if flags.has_bias:
        for matrix, bias in zip(matrices, getattr(module, f"{name}_bias"), strict=True):
            matrix.set_bias(bias)
    return matrices


def _take_matrices(module: nn.Module, name: str, form: MatrixForm) -> list[Matrix]:
    """Makes a matrix of each expert's slice of a 3-D parameter."""
    flags: Any = module
    weights = _own_part(getattr(module, name))  # (E, out, in), or (E, in, out) if transposed
    biases = _own_part(getattr(module, f"{name}_bias")) if flags.has_bias else None  # (E, out)
    return [
        form(weight.t() if flags.is_transposed else weight, None if biases is None else biases[expert])
        for expert, weight in enumerate(weights)
    ]


def _own_part(parameter: Tensor) -> Tensor:
    """A parameter, or this rank's part of one that several hold."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
