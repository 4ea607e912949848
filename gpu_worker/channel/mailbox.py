"""What passes between the link's thread and the engine's: commands one way, signs of progress the other.

Knows neither a socket nor a model. Both directions are safe without a lock: a SimpleQueue, and plain attributes that
one thread writes and the other reads. One command overtakes the others: Preempt changes how those before it end.
"""

import time
from dataclasses import dataclass, field
from queue import SimpleQueue

from qllm.v1 import control_pb2


@dataclass(frozen=True, slots=True)
class Order:
    """A command for the model, with the epoch that it was given in."""

    epoch: int
    command: control_pb2.StepCommand


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The scheduler ends this worker, if the epoch is still the same when its turn comes."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The epoch is over: whatever is held belongs to nobody any more."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The process is to end."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The scheduler will never take this worker."""

    reason: str


Mail = Order | Shutdown | Forget | Stop | Refusal


@dataclass(slots=True)
class Progress:
    """Where the engine is, for heartbeats.

    Attributes:
        busy: Whether a command runs.
        command_id: The Advance that runs; 0 if none.
        last_ns: Monotonic time of the last sign of progress.
    """

    busy: bool = False
    command_id: int = 0
    last_ns: int = field(default_factory=time.monotonic_ns)

    def begin(self, command_id: int) -> None:
        """Notes that a command begins."""
        self.command_id = command_id
        self.last_ns = time.monotonic_ns()
        self.busy = True  # last: who sees it must not see the time of a command long ago

    def tick(self) -> None:
        """Notes that a unit of work is done."""
        self.last_ns = time.monotonic_ns()

    def end(self) -> None:
        """Notes that the engine has nothing to do until it begins again."""
        self.busy = False
        self.command_id = 0

    def since_ns(self) -> int:
        """Returns nanoseconds since the last sign of progress; 0 while idle."""
        return max(0, time.monotonic_ns() - self.last_ns) if self.busy else 0


class Mailbox(SimpleQueue[Mail]):
    """Commands on their way to the engine.

    Attributes:
        preempted_command_ids: Advances that are to be cut short where they may.
    """

    preempted_command_ids: range = range(0)
