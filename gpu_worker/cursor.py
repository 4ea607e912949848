"""Where a batch stands inside an iteration, as a totally ordered value.

It knows no model: how many layers and experts there are is the caller's to know.

Source: arXiv 2503.09304, section 4 (attention and router stages, per-expert queues).
"""

from enum import IntEnum
from typing import NamedTuple


class Stage(IntEnum):
    """A stage of a layer, in the order in which they run; the numbers are those of control.proto."""

    ATTENTION = 1
    EXPERTS = 2


class Cursor(NamedTuple):
    """A position before a stage, or before one expert of it; positions compare in the order in which they are reached.

    Attributes:
        layer: In [0, num_layers]; num_layers means that the iteration is over.
        stage: The stage that runs next.
        expert: In stage EXPERTS the lowest expert with tokens that has not run, or the number of experts when none is
            left and the layer's end is still to come; else 0.
    """

    layer: int
    stage: Stage = Stage.ATTENTION
    expert: int = 0
