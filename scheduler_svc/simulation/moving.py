"""What a virtual worker moves between the device and host memory: how many blocks, until when, and what it reports.

Moves are carried out one after another, and nothing is computed meanwhile. Knows nothing of what blocks hold.
"""

from dataclasses import dataclass, field

from scheduler_svc.core.state.results import WorkTiming
from scheduler_svc.simulation.step_costs import StepCosts


@dataclass(slots=True)
class Moves:
    """The moves of one virtual worker.

    Attributes:
        end_s: When the last one ends; work that comes after it waits until then.
    """

    costs: StepCosts
    end_s: float = 0.0
    _num_blocks: dict[int, int] = field(default_factory=dict)
    _since: WorkTiming = field(default_factory=WorkTiming)

    def grow(self, seq_id: int, num_blocks: int) -> None:
        """Gives a sequence so many blocks more."""
        if num_blocks:
            self._num_blocks[seq_id] = self._num_blocks.get(seq_id, 0) + num_blocks

    def fork(self, seq_id: int, parent_seq_id: int) -> None:
        """Gives a sequence as many blocks as another one has; sharing and copying one of them takes no time."""
        self.grow(seq_id, self._num_blocks.get(parent_seq_id, 0))

    def forget(self, seq_id: int) -> None:
        """Forgets a sequence."""
        self._num_blocks.pop(seq_id, None)

    def offload(self, seq_id: int, now_s: float) -> None:
        """Moves all blocks of a sequence off the device."""
        num_blocks = self._num_blocks.pop(seq_id, 0)
        self._move(self.costs.offload_s(num_blocks), now_s)
        self._note(num_offloaded_blocks=num_blocks, offload_ns=round(1e9 * self.costs.offload_s(num_blocks)))

    def restore(self, seq_id: int, num_blocks: int, num_shared_blocks: int, now_s: float) -> None:
        """Moves the blocks of a sequence back but those that hold its rows already."""
        self._num_blocks[seq_id] = num_blocks
        num_moved = num_blocks - num_shared_blocks
        self._move(self.costs.restore_s(num_moved), now_s)
        self._note(num_restored_blocks=num_moved, restore_ns=round(1e9 * self.costs.restore_s(num_moved)))

    def take_timing(self) -> WorkTiming:
        """Returns what was moved since the last call."""
        since, self._since = self._since, WorkTiming()
        return since

    def _move(self, seconds: float, now_s: float) -> None:
        self.end_s = max(self.end_s, now_s) + seconds

    def _note(
        self,
        *,
        num_offloaded_blocks: int = 0,
        offload_ns: int = 0,
        num_restored_blocks: int = 0,
        restore_ns: int = 0,
    ) -> None:
        since = self._since
        self._since = WorkTiming(
            num_offloaded_blocks=since.num_offloaded_blocks + num_offloaded_blocks,
            offload_ns=since.offload_ns + offload_ns,
            num_restored_blocks=since.num_restored_blocks + num_restored_blocks,
            restore_ns=since.restore_ns + restore_ns,
        )
