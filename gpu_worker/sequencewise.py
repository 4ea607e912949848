"""Runs single modules of a model once for each sequence of a batch, where they can't take several in one row.

    hidden (1, T, D)   |sequence a . . . .|b|c . . . . |      the rest of the model sees one row
                              │            │     │
                        module(a, cache a) (b) (c)            such a module sees one text each time, and that text's cache

That serves every layer that goes through a text from left to right (convolutions, recurrences, state spaces, indexers) as its
own code has it, without knowing it: the module's forward is unmodified.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from greenlet import getcurrent  # type: ignore[import-untyped]
from torch import Tensor, nn

from gpu_worker.forward import ForwardPass
from gpu_worker.ragged import RaggedCache, Span


def run_sequence_by_sequence(module: nn.Module) -> None:
    """Makes a module of a model run once for each sequence, in a ForwardPass; elsewhere it runs as ever.

    Its tensors of tokens must have them in their second dimension, (1, T, ...), and its outputs likewise.
    """
    whole: Callable[..., Any] = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        stage = getcurrent()
        if not isinstance(stage, ForwardPass):
            return whole(*args, **kwargs)
        cache = stage.cache
        outputs: list[Any] = []
        for span in cache.spans:
            if span.dropped:
                outputs.append(None)
                continue
            stage.cache = cache.alone(span)
            try:
                cut = _Cut(cache, stage.cache, span)
                outputs.append(whole(*cut.all(args), **cut.named(kwargs)))
            finally:
                stage.cache = cache
        return _joined(outputs, cache.spans)

    module.forward = forward


class _Cut:
    """Takes one sequence's part of what a module is given.

    Args:
        whole: The pass's cache.
        alone: The sequence's.
        span: Its rows.
    """

    def __init__(self, whole: RaggedCache, alone: RaggedCache, span: Span) -> None:
        self._whole, self._alone, self._span = whole, alone, span
        self._num_tokens = whole.spans[-1].stop

    def all(self, values: Sequence[Any]) -> list[Any]:
        """Its part of each value."""
        return [self.one(value) for value in values]

    def named(self, values: dict[str, Any]) -> dict[str, Any]:
        """Its part of each value; where there was a stand-in for a mask, the sequence's own (1, 1, n, rows)."""
        own = {name: self.one(value) for name, value in values.items()}
        mask = values.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 4:
            only = self._alone.spans[0]
            own["attention_mask"] = self._alone.mask(only, 0, None, mask.dtype, mask.device)[None, None]
        return own

    def one(self, value: Any) -> Any:
        """Its part of a value: its rows of a tensor with the pass's, its own cache for the pass's, the rest as it is."""
        if value is self._whole:
            return self._alone
        if isinstance(value, (tuple, list)):
            return type(value)(self.all(value))
        if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[1] == self._num_tokens:
            return value[:, self._span.start : self._span.stop]
        return value


def _joined(outputs: Sequence[Any], spans: Sequence[Span]) -> Any:
    """Outputs of all sequences end to end, with zeros where one was dropped; tuples item by item."""
    first = next(output for output in outputs if output is not None)
    if isinstance(first, tuple):
        columns = zip(*(output if output is not None else (None,) * len(first) for output in outputs), strict=True)
        return tuple(_joined(column, spans) if isinstance(first[i], Tensor) else first[i] for i, column in enumerate(columns))
    parts = [
        first.new_zeros(first.shape[0], span.num_tokens, *first.shape[2:]) if output is None else output
        for output, span in zip(outputs, spans, strict=True)
    ]
    return torch.cat(parts, dim=1)
