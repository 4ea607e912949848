"""Owns the suspended forward pass: a model's own, unmodified forward that gives up control where work may be put off.

    layer boundary ──attention stage──▶ ExpertWork ──experts, one by one──▶ layer boundary ── … ──▶ head ──▶ logits
    (pre-hook on the layer)  │          (registered experts implementation)
                             Pause (registered attention implementation, and before each group of further rows that
                                    go through the head), if the driver wants one

The forward runs in a greenlet; the hooks find their pass as the greenlet that runs them. Suspending is a switch of
stacks: it copies nothing and undoes nothing. It knows no policy, no sequences' state and no sampling.

Source: arXiv 2503.09304, section 4 (what is kept across preemption).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped]
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from gpu_worker.cache.argument import cache_argument
from gpu_worker.cache.ragged import RaggedCache
from gpu_worker.cache.span import Span
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import PassFailed
from gpu_worker.experts.queues import ExpertQueues, ExpertWork
from gpu_worker.machine.clock import HOST_CLOCK, Clock
from gpu_worker.machine.devices import is_host
from gpu_worker.passes.head import ReadRows, further_logits
from gpu_worker.passes.unit import ATTENTION_ALONE

NAME = "qllm_suspended"

RunExperts = Callable[[ExpertWork], Tensor]
"""Runs all experts of a layer: (T, D)."""


GoesOn = Callable[[], bool]
"""Whether a pass is to go on with its attention stage."""


@dataclass(frozen=True, slots=True)
class LayerBoundary:
    """What a pass says when it stands before a decoder layer."""

    layer: int


@dataclass(frozen=True, slots=True)
class Pause:
    """What a pass says when it stands inside an attention stage, or in the head behind the last layer."""


def register() -> None:
    """Makes the experts implementation known to transformers under NAME; doing it again changes nothing."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, suspended_experts)


def suspended_experts(module: nn.Module, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
    """Leaves the model for whoever drives the pass, and comes back with the experts' output (T, D)."""
    return current_pass().ask_experts(ExpertWork(module, hidden, expert_ids, weights))


def add_boundaries(decoder: nn.Module, layers: nn.ModuleList) -> None:
    """Makes every forward pass stop before each of a decoder's layers; forwards that are no ForwardPass run as ever."""

    def before(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if isinstance(stage := getcurrent(), ForwardPass):
                stage.arrive(layer, args, kwargs)

        return hook

    def after_last(*_: Any) -> None:
        if isinstance(stage := getcurrent(), ForwardPass):
            stage.layers_done = stage.clock.mark()

    def after_decoder(_: nn.Module, __: tuple[Any, ...], decoded: Any) -> None:
        if isinstance(stage := getcurrent(), ForwardPass):
            stage.keep_decoded(decoded)

    decoder.register_forward_hook(after_decoder)
    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(before(number), with_kwargs=True)
    layers[-1].register_forward_hook(after_last)


def current_pass() -> "ForwardPass":
    """The pass whose model code is running.

    Raises:
        PassFailed: None is: the model was called by something else.
    """
    stage = getcurrent()
    if not isinstance(stage, ForwardPass):
        raise PassFailed("the model runs outside of a ForwardPass")
    return stage


def _always() -> bool:
    return True


class ForwardPass(greenlet):  # type: ignore[misc]  # greenlet is untyped
    """One iteration of a batch, suspended wherever it stands.

    It must be made, advanced and closed on one thread, under one torch.inference_mode().

    Args:
        model: A causal language model whose layers have boundaries and whose experts implementation is NAME.
        experts_by_layer: Experts of each decoder layer, 0 for one without a mixture.
        cache: The cache as this pass sees it; its spans are the batch.
        token_ids: Tokens of all sequences, end to end (T,).
        position_ids: Their positions (T,).
        logit_rows: Rows that need logits, at least one (rows,).
        clock: Times the work.
        reads_rows_back: Whether all rows of the last layer are read; else its attention and experts run
            for those that the head needs.
        read_rows: Reads the logits of further rows, once those are there.

    Attributes:
        cursor: Where it stands.
        queues: The expert work that it waits for, in stage EXPERTS.
        logits: The head's output (rows, V) once the iteration is over.
        layers_done: The clock's mark when the last layer was done.
    """

    next_unit = ATTENTION_ALONE  # experts that run within it are accounted for by whoever runs them

    def __init__(
        self,
        model: nn.Module,
        experts_by_layer: Sequence[int],
        cache: RaggedCache,
        token_ids: Tensor,
        position_ids: Tensor,
        logit_rows: Tensor,
        clock: Clock = HOST_CLOCK,
        *,
        reads_rows_back: bool = False,
        read_rows: ReadRows | None = None,
    ) -> None:
        super().__init__()
        self._model = model
        self._inputs = {
            "input_ids": token_ids[None],  # (1, T)
            "position_ids": position_ids[None],  # (1, T)
            "logits_to_keep": logit_rows,  # (rows,)
        }
        self._experts_by_layer = experts_by_layer
        self._num_tokens = len(token_ids)
        self._carried_bytes = 0
        self._reads_rows_back = reads_rows_back or read_rows is not None
        self._read_rows = read_rows
        self._decoded: Any = None
        self._stands_in_head = False
        self._run_experts: RunExperts | None = None
        self._goes_on: GoesOn = _always
        self._paused_bytes = 0
        self.cache = cache
        self.clock = clock
        self.cursor = Cursor(0)
        self.queues: ExpertQueues | None = None
        self.logits: Tensor | None = None
        self.layers_done: Any = None

    @property
    def must_reach(self) -> Cursor:
        """Its cursor: it can be stopped anywhere."""
        return self.cursor

    @property
    def suspended_bytes(self) -> int:
        """Bytes that it holds while suspended: hidden states, routing, partial expert outputs, masks."""
        return self._carried_bytes + self._paused_bytes + self.cache.nbytes + (self.queues.nbytes if self.queues else 0)

    @property
    def expert_queues(self) -> ExpertQueues:
        """The expert work that it waits for.

        Raises:
            PassFailed: It stands at another stage.
        """
        if self.queues is None:
            raise PassFailed(f"the pass stands at {self.cursor} and waits for no experts")
        return self.queues

    # ---- driven from outside

    def run_attention(self, run_experts: RunExperts | None = None, goes_on: GoesOn = _always) -> None:
        """Runs the attention stage that it stands before or in, up to the layer's expert work or the next boundary.

        Args:
            run_experts: Runs the layer's experts on the spot, so that the pass goes on to the next boundary.
            goes_on: Asked between parts of the stage; False leaves the pass there, with its cursor where it was.

        Raises:
            Exception: Whatever the model raised; the pass is over then.
        """
        self._run_experts, self._goes_on = run_experts, goes_on
        self._resume()

    def deliver(self, goes_on: GoesOn = _always) -> None:
        """Gives the model the output of the experts, all of which have run, and runs to the next boundary or the end.

        Args:
            goes_on: Asked before each group of further rows that go through the head; False leaves the pass there, with
                its cursor where it was: it is delivered once more.

        Raises:
            Exception: Whatever the model raised; the pass is over then.
        """
        queues, self.queues, self._goes_on = self.expert_queues, None, goes_on
        reply = () if self._stands_in_head else (queues.result(),)  # (T, D)
        self._resume(*reply)
        if self._stands_in_head:
            self.queues = queues  # all of which have run

    def note_expert_run(self) -> None:
        """Moves the cursor to the next expert that has tokens, after one has run or rows have gone."""
        if self.queues is not None:
            self.cursor = Cursor(self.cursor.layer, Stage.EXPERTS, self.queues.next_expert)

    def drop(self, span: Span) -> None:
        """Computes the rows of a span no further."""
        span.dropped = True
        if all(s.dropped for s in self.cache.spans):
            self.close()
        elif self.queues is not None and not self._stands_in_head:
            self.queues.keep(self._wanted_rows(self.cursor.layer))
            self.note_expert_run()

    def close(self) -> None:
        """Ends the pass wherever it stands and lets go of all that it holds. Its cursor is then at the end."""
        if self:  # started and not finished
            self.throw(GreenletExit)
        self._inputs = {}
        self._decoded = self._read_rows = None
        self._goes_on, self._stands_in_head = _always, False  # whoever drove it is let go of
        self.queues = self.logits = None
        self._carried_bytes = self._paused_bytes = 0
        self.cursor = Cursor(len(self._experts_by_layer))

    @property
    def is_closed(self) -> bool:
        """Whether it was ended before it was over."""
        return not self._inputs

    # ---- driven by the model

    def run(self) -> Tensor:
        """The greenlet's body: the model's forward. Returns logits (rows, V)."""
        argument = cache_argument(self._model)
        self.cache.stands_for = argument.of_class
        inputs = {**self._inputs, argument.name: self.cache, "use_cache": True}
        logits: Tensor = self._model(**inputs).logits[0]  # (rows, V)
        if self._read_rows is not None:
            self._read_rows(lambda rows: self._further_logits(inputs, rows))
        return logits

    def _further_logits(self, inputs: dict[str, Any], rows: range) -> Tensor:
        if self._decoded is None:
            raise PassFailed("the model's forward does not run its decoder, so no further rows can be read")
        self._stands_in_head = True
        self.offer_pause(self._decoded[0])
        self._stands_in_head = False
        device = self._inputs["input_ids"].device
        return further_logits(self._model, self._decoded, inputs, torch.arange(rows.start, rows.stop, device=device))

    def keep_decoded(self, decoded: Any) -> None:
        """Called by the model behind its decoder: keeps what that gave as long as further rows of it are read."""
        if self._read_rows is not None:
            self._decoded = decoded

    def arrive(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called by the model before a decoder layer: stands there, unless it is the first, where passes begin."""
        # By where they lie: the same positions, say, come as more than one argument.
        carried = {t.data_ptr(): t.nbytes for t in _tensors([args, list(kwargs.values())])}
        self._carried_bytes = sum(carried.values())
        if layer > 0:
            self.leave(LayerBoundary(layer))

    def ask_experts(self, work: ExpertWork) -> Tensor:
        """Called by the model: has the experts of a layer run, here or by the driver. Returns their output (T, D)."""
        if self._run_experts is None:
            delivered: Tensor = self.leave(work)
            return delivered
        if not self._reads_some(self.cursor.layer):
            return self._run_experts(work)
        rows = self._inputs["logits_to_keep"]  # (rows,)
        chosen = (tensor.index_select(0, rows) for tensor in (work.hidden, work.expert_ids, work.weights))
        return torch.zeros_like(work.hidden).index_copy_(0, rows, self._run_experts(ExpertWork(work.module, *chosen)))

    def attending(self) -> Sequence[Span]:
        """Whose attention is read in the layer where it stands: everybody's, or in the last one the head's rows'."""
        rows = self._inputs["logits_to_keep"]  # (rows,)
        if self.cache.is_alone or not self._reads_some(self.cursor.layer) or not is_host(rows.device):
            return self.cache.spans
        read: list[int] = rows.tolist()
        return [
            span.part(row - span.start, 1) for span in self.cache.spans for row in read if span.start <= row < span.stop
        ]

    def offer_pause(self, *held: Tensor) -> None:
        """Called by the model inside an attention stage, which holds tensors: stands there as long as the driver wants.

        Meanwhile sequences may be dropped, and their rows may move. A module that runs for one sequence at a time would
        not see that, and is not left.
        """
        if self.cache.is_alone or self._goes_on():
            return
        self._paused_bytes = sum(tensor.nbytes for tensor in held)
        self.leave(Pause())
        self._paused_bytes = 0

    def leave(self, effect: LayerBoundary | ExpertWork | Pause) -> Any:
        """Called by the model: hands an effect to the driver and returns what the driver comes back with."""
        return self.parent.switch(effect)

    def _resume(self, *reply: Tensor) -> None:
        effect = self.switch(*reply)
        if isinstance(effect, Pause):
            return
        if isinstance(effect, LayerBoundary):
            self.cursor = Cursor(effect.layer)
        elif isinstance(effect, ExpertWork):
            layer = self.cursor.layer
            self.queues = ExpertQueues(effect, self._experts_by_layer[layer], self._wanted_rows(layer))
            self.cursor = Cursor(layer, Stage.EXPERTS, self.queues.next_expert)
        else:
            self.logits = effect
            self._carried_bytes = 0
            self.cursor = Cursor(len(self._experts_by_layer))

    def _reads_some(self, layer: int) -> bool:
        """Whether only some rows of what a layer gives are read: those of the last that the head needs."""
        num_read = self._num_tokens if self._reads_rows_back else len(self._inputs["logits_to_keep"])
        return layer + 1 == len(self._experts_by_layer) and num_read < self._num_tokens

    def _wanted_rows(self, layer: int) -> Tensor | None:
        """Mask (T,) of the rows whose experts anybody needs, None for all.

        A dropped sequence's rows are not needed, and of the last layer only those that the head reads: K and V of all
        rows are cached by then, and nothing comes after, so the chunk of a prompt skips most of its last experts.
        """
        logit_rows = self._inputs["logits_to_keep"]  # (rows,)
        heads_all = not self._reads_some(layer)
        dropped = [span for span in self.cache.spans if span.dropped]
        if heads_all and not dropped:
            return None
        wanted = logit_rows.new_full((self._num_tokens,), heads_all, dtype=torch.bool)
        wanted[logit_rows] = True
        for span in dropped:
            wanted[span.start : span.stop] = False
        return wanted


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    """The tensors in nested sequences."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(_tensors(value))
    return found
