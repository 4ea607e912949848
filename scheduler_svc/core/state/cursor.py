"""Where a batch stands inside an iteration.

Knows nothing of what runs there. Source: arXiv 2503.09304, section 4 (attention and router stages, per-expert queues).

    layer 0                         layer 1                  ...   layer L (the end: tokens are sampled)
    ATTENTION  EXPERTS 0 1 .. E-1   ATTENTION  EXPERTS ...         ATTENTION
    ^ start                         ^ after all experts of layer 0
"""

from enum import Enum, IntEnum
from typing import NamedTuple


class Stage(IntEnum):
    """A stage of a layer, in the order in which they run."""

    ATTENTION = 1
    EXPERTS = 2


class Cursor(NamedTuple):
    """A place in an iteration; places compare in the order in which they are passed.

    Attributes:
        layer: Layer in [0, num_layers]; num_layers is the end.
        stage: Stage of the layer that runs next.
        expert: In stage EXPERTS, the lowest expert that has not run; else 0.
    """

    layer: int
    stage: Stage = Stage.ATTENTION
    expert: int = 0


START = Cursor(0)


class PreemptAt(Enum):
    """Where commands may stop, and so where work may be left."""

    ITERATION = "iteration"
    LAYER = "layer"
    EXPERT = "expert"
