"""Runs what stands behind a model's decoder for further rows: its head, and whatever the model does to the logits.

A model's forward gives logits for the rows that it is asked for, all at once. Those of a whole prompt may not fit into
memory, so they are computed in groups: the same forward once more for each, with what the decoder gave in the
decoder's place. So nothing has to be known of what each model does behind its decoder.

    forward ── decoder ──▶ kept ──▶ head ──▶ logits of the rows that are sampled from
    forward ── (kept) ────────────▶ head ──▶ logits of further rows, as often as they are asked for
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn

FurtherLogits: TypeAlias = Callable[[range], Tensor]
"""Computes the logits of rows that lie side by side (rows, V)."""

ReadRows: TypeAlias = Callable[[FurtherLogits], None]
"""Reads as many rows as it likes, group by group; it must not keep their logits."""


def further_logits(model: Any, decoded: Any, inputs: dict[str, Any], rows: Tensor) -> Tensor:
    """Returns the logits of rows (rows, V) of a forward whose decoder has run.

    Args:
        model: A causal language model.
        decoded: What its decoder gave.
        inputs: Arguments of that forward.
        rows: Which rows (rows,).
    """
    with _standing_in(model.get_decoder(), decoded):
        logits: Tensor = model(**inputs | {"logits_to_keep": rows}).logits[0]  # (rows, V)
    return logits


@contextmanager
def _standing_in(decoder: nn.Module, decoded: Any) -> Iterator[None]:
    """Has a decoder give what it gave before. Nothing else may run it meanwhile: passes change at layers only."""
    own = vars(decoder).get("forward")  # it may have been replaced by somebody else already
    decoder.forward = lambda *_, **__: decoded
    try:
        yield
    finally:
        del decoder.forward
        if own is not None:
            decoder.forward = own
