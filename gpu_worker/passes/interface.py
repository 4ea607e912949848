"""What drives a pass needs of it, whether the model runs in it or a recording of the model is replayed."""

from typing import Any, Protocol

from torch import Tensor

from gpu_worker.cache.span import Span
from gpu_worker.cursor import Cursor
from gpu_worker.experts.queues import ExpertQueues
from gpu_worker.passes.forward import GoesOn, RunExperts
from gpu_worker.passes.unit import Unit


class Pass(Protocol):
    """One iteration of a batch, suspended wherever it stands."""

    @property
    def cursor(self) -> Cursor:
        """Where it stands."""

    @property
    def must_reach(self) -> Cursor:
        """The earliest place that an advance must allow for it to go on: where its next unit ends if uncuttable."""

    @property
    def next_unit(self) -> Unit:
        """What its next attention stage runs that it does not leave to its driver."""

    @property
    def logits(self) -> Tensor | None:
        """The head's output (rows, V) once the iteration is over."""

    @property
    def layers_done(self) -> Any:
        """The clock's mark when the last layer was done."""

    @property
    def expert_queues(self) -> ExpertQueues:
        """The expert work that it waits for; raises PassFailed if it stands at another stage."""

    @property
    def is_closed(self) -> bool:
        """Whether it was ended before it was over."""

    @property
    def suspended_bytes(self) -> int:
        """Bytes that it holds while suspended."""

    def run_attention(self, run_experts: RunExperts | None, goes_on: GoesOn) -> None:
        """Runs the attention stage that it stands before; with `run_experts`, or where it can't stop inside, the layer.

        Where `goes_on` says no between two parts of the stage, it may stand there, with its cursor where it was.
        """

    def deliver(self, goes_on: GoesOn) -> None:
        """Goes on once all experts that it waits for have run; where `goes_on` says no it may stand in the head."""

    def note_expert_run(self) -> None:
        """Moves the cursor to the next expert that has tokens."""

    def drop(self, span: Span) -> None:
        """Computes the rows of a span no further."""

    def close(self) -> None:
        """Ends it wherever it stands and lets go of all that it holds."""
