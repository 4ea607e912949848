"""Decides whether a request is taken in: how many of a class may be live, with how many tokens, and after what wait.

Each class has its own limits, so that best-effort work cannot crowd latency-sensitive work out. Who is refused is told
when to come back. Time is an argument.
"""

from dataclasses import dataclass

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import DeadlineTooSoon, Overloaded, TokensSpent, WaitTooLong, jittered

_MIN_RETRY_S, _MAX_RETRY_S = 0.1, 30.0
_SMOOTHING = 0.2
# By what part of its time even the soonest end may come earlier than predicted: refused is what can't be met at all.
_OPTIMISM = 0.5


@dataclass(frozen=True, slots=True)
class ClassLimits:
    """What the live requests of one class may have.

    Attributes:
        max_requests: The most of them.
        max_tokens: The most tokens of their prompts and longest answers together; 0: any number.
        max_wait_s: The longest wait until a new one is begun, in seconds; 0: any.
    """

    max_requests: int
    max_tokens: int = 0
    max_wait_s: float = 0.0


@dataclass(slots=True)
class ClassAdmission:
    """The live requests of one class, within its limits.

    Attributes:
        num_live: How many there are.
        num_tokens: Tokens of their prompts and longest answers.
    """

    request_class: RequestClass
    limits: ClassLimits
    num_live: int = 0
    num_tokens: int = 0
    _interval_s: float = 1.0
    _last_end_s: float | None = None

    def enter(self, num_tokens: int, wait_s: float = 0.0, num_requests: int = 1) -> None:
        """Counts a request in, or several that come together: all of them or none.

        Args:
            num_tokens: Those of their prompts and longest answers.
            wait_s: How long they are predicted to wait until they are begun.
            num_requests: How many they are.

        Raises:
            WaitTooLong, TokensSpent, Overloaded: There is no room; all say when there may be.
        """
        name, limits = self.request_class.words, self.limits
        if self.num_live + num_requests > limits.max_requests:
            raise Overloaded(name, limits.max_requests, self._retry_s())
        if limits.max_tokens and self.num_tokens + num_tokens > limits.max_tokens:
            never_fits = num_tokens > limits.max_tokens
            raise TokensSpent(name, num_tokens, limits.max_tokens, None if never_fits else self._retry_s())
        if limits.max_wait_s and wait_s > limits.max_wait_s:
            # The wait falls by a second each second unless others come, who are refused as this one is.
            retry_s = jittered(max(_MIN_RETRY_S, wait_s - limits.max_wait_s))
            raise WaitTooLong(name, wait_s, limits.max_wait_s, retry_s)
        self.num_live += num_requests
        self.num_tokens += num_tokens

    def leave(self, num_tokens: int, now_s: float) -> None:
        """Counts a request out that came in with so many tokens."""
        self.num_live -= 1
        self.num_tokens -= num_tokens
        if self._last_end_s is not None:
            self._interval_s += _SMOOTHING * (now_s - self._last_end_s - self._interval_s)
        self._last_end_s = now_s

    def _retry_s(self) -> float:
        """Returns about the time that a place took to come free."""
        return jittered(min(_MAX_RETRY_S, max(_MIN_RETRY_S, self._interval_s)))


def require_deadline(deadline_s: float | None, now_s: float, soonest_s: float) -> None:
    """Raises DeadlineTooSoon where the caller gives up before its first tokens can be there.

    Args:
        deadline_s: When it gives up; None: never.
        now_s: The time.
        soonest_s: What the first tokens take on a worker that does nothing else, as predicted.
    """
    if deadline_s is not None and now_s + _OPTIMISM * soonest_s > deadline_s:
        raise DeadlineTooSoon(deadline_s - now_s, soonest_s)
