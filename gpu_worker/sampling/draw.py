"""What one row of logits is to give: how to choose, and what the choice depends on besides the logits."""

from dataclasses import dataclass

from gpu_worker.contract.commands import Sampling
from gpu_worker.sampling.rules import Rules


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's wish.

    Attributes:
        sampling: How to choose.
        output_index: Tokens that the sequence has generated before this one.
        banned_ids: Tokens that must not be chosen here, whatever the rules.
        rules: What the tokens have to keep to; None: nothing.
    """

    sampling: Sampling
    output_index: int
    banned_ids: tuple[int, ...] = ()
    rules: Rules | None = None
