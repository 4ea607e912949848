"""Counts the output tokens of each class between two times. Throughput is taken from there."""

import math
from dataclasses import dataclass, field

from scheduler_svc.core.state.sequence import RequestClass


@dataclass(slots=True)
class Window:
    """Output tokens from `from_s` to before `until_s`."""

    from_s: float = 0.0
    until_s: float = math.inf
    num_tokens: dict[RequestClass, int] = field(default_factory=lambda: dict.fromkeys(RequestClass, 0))

    def note_token(self, request_class: RequestClass, now_s: float) -> None:
        """Counts one token, if its time is inside."""
        if self.from_s <= now_s < self.until_s:
            self.num_tokens[request_class] += 1

    def seconds(self, end_s: float) -> float:
        """Returns how long it is; one without an end lasts until the run ended."""
        return (self.until_s if math.isfinite(self.until_s) else end_s) - self.from_s
