"""Runs single modules of a model once for each sequence of a batch, where they can't take several in one row.

    hidden (1, T, D)   |sequence a . . . .|b|c . . . . |    the rest of the model sees one row
                              │            │     │
                        module(a, cache a) (b) (c)          such a module sees one text each time, and that text's cache

That serves every layer that goes through a text from left to right (convolutions, recurrences, state spaces, indexers)
as its own code has it, without knowing it: the module's forward is unmodified.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from greenlet import getcurrent  # type: ignore[import-untyped]
from torch import Tensor, nn

from gpu_worker.attention.interface import as_stand_in, window_of
from gpu_worker.cache.ragged import RaggedCache
from gpu_worker.cache.span import Span
from gpu_worker.errors import PassFailed
from gpu_worker.passes.forward import ForwardPass


class SingleSequence:
    """A module's forward, run once for each sequence of a ForwardPass; elsewhere it runs as ever.

    Its tensors of tokens must have them in their second dimension, (1, T, ...), and its outputs likewise.

    Args:
        module: The module, whose forward this becomes.

    Attributes:
        goes_on_token_by_token: Whether a text that has begun is gone on with one token a call, for a module that
            ignores its state when it is given several.
    """

    def __init__(self, module: nn.Module) -> None:
        self._forward: Callable[..., Any] = module.forward
        self._layer: int | None = getattr(module, "layer_idx", None)
        self.goes_on_token_by_token = False
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward; arguments and outputs are the module's."""
        stage = getcurrent()
        if not isinstance(stage, ForwardPass):
            return self._forward(*args, **kwargs)
        whole = stage.cache
        outputs: list[Any] = []
        try:
            for span in whole.spans:
                if span.dropped:
                    outputs.append(None)
                    continue
                parts = []
                for part in self._parts(span):
                    stage.cache = whole.alone(part)
                    cut = _Cut(whole, stage.cache, part, self._layer)
                    parts.append(self._forward(*cut.all(args), **cut.named(kwargs)))
                outputs.append(_joined(parts) if len(parts) > 1 else parts[0])
        finally:
            stage.cache = whole
        return _joined(_filled(outputs, whole.spans))

    def _parts(self, span: Span) -> list[Span]:
        """What is run of a sequence in one call each."""
        if not self.goes_on_token_by_token or span.first_position == 0:
            return [span]
        return list(span.parts(1))


class _Cut:
    """Takes one sequence's part of what a module is given.

    Args:
        whole: The pass's cache.
        alone: The sequence's.
        span: Its rows.
        layer: The module's layer, if it says.
    """

    def __init__(self, whole: RaggedCache, alone: RaggedCache, span: Span, layer: int | None) -> None:
        self._whole, self._alone, self._span, self._layer = whole, alone, span, layer
        self._num_tokens = whole.spans[-1].stop
        self._num_before = sum(one.first_position for one in whole.spans)

    def all(self, values: Sequence[Any]) -> list[Any]:
        """Its part of each value."""
        return [self.one(value) for value in values]

    def named(self, values: dict[str, Any]) -> dict[str, Any]:
        """Its part of each value; where there was a stand-in for a mask, the sequence's own (1, 1, n, rows)."""
        own = {name: self.one(value) for name, value in values.items()}
        mask = values.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 4:
            own["attention_mask"] = as_stand_in(self._mask(mask)[None, None], None)
        return own

    def _mask(self, stand_in: Tensor) -> Tensor:
        """The sequence's own mask (n, rows): of all its rows, or of those that a memory of the layer's own gives."""
        only, start, window = self._alone.spans[0], 0, None
        if self._layer is not None and self._alone.is_own(self._layer):
            _, start = self._alone.get_mask_sizes(only.num_tokens, self._layer)
            window = window_of(stand_in)
        return self._alone.mask(only, start, window, stand_in.dtype, stand_in.device)

    def one(self, value: Any) -> Any:
        """Its part of a value: its rows of a tensor with the pass's, its cache for the pass's; others as they are."""
        if value is self._whole:
            return self._alone
        if isinstance(value, (tuple, list)):
            return type(value)(self.all(value))
        if isinstance(value, dict):
            return {key: self.one(item) for key, item in value.items()}
        if isinstance(value, Tensor) and value.dim() >= 2:
            if value.shape[1] == self._num_tokens:
                return value[:, self._span.start : self._span.stop]
            if self._whole.history.was_read and value.shape[1] == self._num_before + self._num_tokens:
                return self._with_history(value)
        return value

    def _with_history(self, value: Tensor) -> Tensor:
        """Its rows (1, length, ...) of a tensor of all rows before the pass, end to end, and then those of the pass."""
        start = sum(span.first_position for span in self._whole.spans if span.start < self._span.start)
        new = self._num_before + self._span.start
        before = value[:, start : start + self._span.first_position]
        return torch.cat([before, value[:, new : new + self._span.num_tokens]], dim=1)


def _filled(outputs: Sequence[Any], spans: Sequence[Span]) -> list[Any]:
    """Outputs with zeros where a sequence was dropped, in the shapes that the others' have."""
    like = next(output for output in outputs if output is not None)

    def zeros(output: Any, span: Span) -> Any:
        if isinstance(output, tuple):
            return tuple(zeros(item, span) for item in output)
        return output.new_zeros(1, span.num_tokens, *output.shape[2:]) if isinstance(output, Tensor) else output

    return [zeros(like, span) if output is None else output for output, span in zip(outputs, spans, strict=True)]


def _joined(outputs: Sequence[Any]) -> Any:
    """Outputs (1, n, ...) end to end; tuples item by item, and what is no tensor as the first has it."""
    first = outputs[0]
    if isinstance(first, tuple):
        return tuple(_joined(column) for column in zip(*outputs, strict=True))
    if not isinstance(first, Tensor):
        return first
    width = max(output.shape[-1] for output in outputs)
    return torch.cat([_widened(output, width) for output in outputs], dim=1)


def _widened(output: Tensor, width: int) -> Tensor:
    """An output (1, n, ..., width): an indexer chooses fewer rows in a short text, and the last one is said again."""
    lacking = width - output.shape[-1]
    if not lacking:
        return output
    if output.is_floating_point():
        raise PassFailed(f"a module's outputs differ in width by sequence: {output.shape[-1]} and {width}")
    return torch.cat([output, output[..., -1:].expand(*output.shape[:-1], lacking)], dim=-1)
