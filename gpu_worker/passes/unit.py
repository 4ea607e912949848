"""What a pass runs next where it stands before an attention stage, for whoever accounts for it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """An attention stage, and what cannot be told apart from it while it runs.

    Attributes:
        num_layers: Layers whose attention it runs.
        num_expert_runs: Experts that it runs, at most; only the device knows which of them have tokens.
        expert_tokens: Tokens that they run over.
        expert_share: Share of its time that they take.
    """

    num_layers: int = 1
    num_expert_runs: int = 0
    expert_tokens: int = 0
    expert_share: float = 0.0


ATTENTION_ALONE = Unit()
