"""Keeps best-effort work alive while latency-sensitive work saturates the worker.

Has two guards. A share: while best-effort work waits, it is owed `min_share` of worker time, kept as a credit in
seconds that is bounded by what the sliding window holds. An age: when best-effort work was passed over for
`threshold` iterations, it is promoted for the next `promotion_quantum` of its steps. Source of the age rule: Fu et
al., arXiv 2408.15792, section 4.3 (threshold and quantum), applied to the class. Knows no sequence and no clock.
"""

from collections import deque
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from qllm.settings import SCHEDULING, Setting


@dataclass(frozen=True, slots=True)
class StarvationLimits:
    """How much best-effort work is owed.

    Attributes:
        promotion_quantum: Steps that a promotion lasts.
    """

    min_share: Annotated[
        float,
        Setting(0, 0.9, option="be-min-share", panel=SCHEDULING),
        "Sets the least share of the worker's time that best-effort work gets while any of it waits.",
    ] = 0.05
    window_s: Annotated[
        float,
        Setting(0.1, 3600, option="be-window-s", panel=SCHEDULING),
        "Sets the length of the sliding window, in seconds: how far back the worker's time is counted for "
        "--be-min-share.",
    ] = 10.0
    threshold: Annotated[
        int,
        Setting(0, 1 << 30, option="starvation-threshold", panel=SCHEDULING),
        "Sets how many iterations in a row may leave best-effort work out while it waits. After that many it goes "
        "first for a while. With 0 it never goes first for this reason.",
    ] = 200
    promotion_quantum: int = 10


class _Span(NamedTuple):
    """A step that ended: when, its seconds, and those charged to best-effort work."""

    end_s: float
    duration_s: float
    be_s: float


class StarvationGuard:
    """Tells when best-effort work is owed worker time."""

    def __init__(self, limits: StarvationLimits) -> None:
        self._limits = limits
        self._credit_s = 0.0
        self._sent_s = 0.0  # best-effort work sent and not yet recorded, as estimated
        self._passed_over = 0
        self._promoted_steps = 0
        self._spans: deque[_Span] = deque()
        self._window_busy_s = 0.0
        self._window_be_s = 0.0
        self.num_promotions = 0

    @property
    def credit_s(self) -> float:
        """Seconds of worker time that best-effort work is owed; negative while it is ahead of its share."""
        return self._credit_s - self._sent_s

    @property
    def is_promoted(self) -> bool:
        """Whether best-effort work was passed over for so long that it now goes first."""
        return self._promoted_steps > 0

    def share(self, now_s: float) -> float:
        """Returns best-effort work's share of busy time in the window that ends now."""
        self._slide(now_s)
        return self._window_be_s / self._window_busy_s if self._window_busy_s > 0 else 0.0

    def record(self, now_s: float, duration_s: float, be_fraction: float, *, be_waits: bool) -> None:
        """Counts a step that ended now.

        Args:
            now_s: When it ended.
            duration_s: What it took, in seconds.
            be_fraction: Share of that which is charged to best-effort work, in [0, 1].
            be_waits: Whether best-effort work was runnable beside it.
        """
        span = _Span(now_s, duration_s, duration_s * be_fraction)
        self._spans.append(span)
        self._count(span, 1)
        self._slide(now_s)
        bound_s = self._limits.min_share * self._limits.window_s
        owed_s = self._limits.min_share * duration_s if be_waits or span.be_s else 0.0
        self._credit_s = min(bound_s, max(-bound_s, self._credit_s + owed_s - span.be_s))
        if span.be_s:
            self._passed_over = 0

    def spend(self, estimate_s: float) -> None:
        """Counts a best-effort step as it is sent, so that what is owed is not sent twice."""
        self._sent_s += estimate_s
        self._promoted_steps = max(0, self._promoted_steps - 1)

    def settle(self, estimate_s: float) -> None:
        """Takes back what `spend` counted for a step, whose real time is recorded now."""
        self._sent_s -= estimate_s

    def iteration_finished(self, *, be_waits: bool) -> None:
        """Counts an iteration; one that ran while best-effort work waited passes it over."""
        self._passed_over = self._passed_over + 1 if be_waits else 0
        if self._limits.threshold and self._passed_over >= self._limits.threshold:
            self._passed_over = 0
            self._promoted_steps = self._limits.promotion_quantum
            self.num_promotions += 1

    def _slide(self, now_s: float) -> None:
        while self._spans and self._spans[0].end_s <= now_s - self._limits.window_s:
            self._count(self._spans.popleft(), -1)

    def _count(self, span: _Span, sign: int) -> None:
        self._window_busy_s += sign * span.duration_s
        self._window_be_s += sign * span.be_s
