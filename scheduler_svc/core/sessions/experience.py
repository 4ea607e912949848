"""What was learned from programs so far, and for how long a cache is worth keeping by it. Knows no program."""

from scheduler_svc.core.sessions.lifetime import best_lifetime_s
from scheduler_svc.core.sessions.limits import SessionLimits
from scheduler_svc.core.sessions.tool_times import ToolTimes
from scheduler_svc.core.sessions.turn_counts import TurnCounts

_QUEUE_WEIGHT = 0.02  # of the last wait in the mean, once there were as many as make it so


class Experience:
    """Durations of tools, numbers of turns, and the time that a turn waits which finds nothing kept.

    Args:
        limits: What is fixed whatever is learned.
        tool_times: How long tools took; it may hold what was learned before.

    Attributes:
        turn_counts: How many turns programs had.
        mean_queue_s: How long turns waited that found nothing, until they began; a moving mean.
    """

    def __init__(self, limits: SessionLimits, tool_times: ToolTimes) -> None:
        self.tool_times = tool_times
        self.turn_counts = TurnCounts()
        self.mean_queue_s = 0.0
        self._limits = limits
        self._num_queued = 0

    def queued(self, queue_s: float) -> None:
        """Takes in how long a turn waited that found nothing."""
        self._num_queued += 1
        self.mean_queue_s += (queue_s - self.mean_queue_s) * max(_QUEUE_WEIGHT, 1 / self._num_queued)

    def lifetime_s(self, tool: str, reload_s: float) -> float:
        """Returns for how many seconds to keep a cache while a tool runs; 0: not at all.

        Args:
            tool: The tool's name.
            reload_s: What it would cost to have the cache again, in seconds.
        """
        limits = self._limits
        if limits.session_ttl_s is not None:
            return limits.session_ttl_s
        durations_s = self.tool_times.expected_of(tool, limits.session_min_records)
        if durations_s is None:
            return limits.session_first_ttl_s
        return best_lifetime_s(durations_s, self.mean_queue_s * self.turn_counts.eta + reload_s)
