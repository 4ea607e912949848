"""Bounds what a tenant uses: requests a minute, tokens a minute, and requests at a time. Time is an argument.

    tokens of a minute  ──refilled all the time, up to a minute's worth──▶  level
    a request takes prompt + max_tokens, and gives back what it did not use

A request that is larger than a minute's tokens waits for a full minute's worth, and leaves a debt that those who follow
wait for: it is served, and the rate holds over time.

Items of durable jobs take tokens too, but leave half of a minute's worth for requests that somebody waits for. How many
of them run is the scheduler's to decide, so they count neither as requests nor as live.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from scheduler_svc.errors import QuotaExceeded, jittered

_MINUTE_S = 60.0
_LIVE_RETRY_S = 1.0  # when one of the tenant's own requests ends is the tenant's to know
_LEAST_RETRY_S = 0.05
_SPARED_BY_ITEMS = 0.5  # of a minute's tokens, so that a tenant's jobs don't shut out its own requests


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that a tenant may use; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_live: int | None = None


@dataclass(slots=True)
class _Bucket:
    """A level that fills by so much a minute, up to a minute's worth; it may be below zero."""

    per_minute: int
    level: float
    at_s: float

    def wait_s(self, amount: float, now_s: float) -> float:
        """Returns how long it takes until so much is there, or as much as there can be; 0: it is there."""
        self._fill(now_s)
        lacking = min(amount, self.per_minute) - self.level
        return max(0.0, lacking * _MINUTE_S / self.per_minute)

    def take(self, amount: float) -> None:
        self.level -= amount

    def give_back(self, amount: float, now_s: float) -> None:
        self._fill(now_s)
        self.level = min(self.per_minute, self.level + amount)

    def _fill(self, now_s: float) -> None:
        filled = self.level + max(0.0, now_s - self.at_s) * self.per_minute / _MINUTE_S
        self.level, self.at_s = min(self.per_minute, filled), now_s


@dataclass(slots=True, eq=False)
class Account:
    """What one tenant uses, with all of its keys.

    Attributes:
        tenant: Its name, for refusals.
        quota: Its limits.
        num_live: Its requests that are not over.
    """

    tenant: str = ""
    quota: Quota = Quota()
    num_live: int = 0
    _requests: _Bucket | None = field(default=None, repr=False)
    _tokens: _Bucket | None = field(default=None, repr=False)

    def change(self, quota: Quota) -> None:
        """Takes new limits; a rate that is the same goes on from its level, another one begins full."""
        if quota.requests_per_minute != self.quota.requests_per_minute:
            self._requests = None
        if quota.tokens_per_minute != self.quota.tokens_per_minute:
            self._tokens = None
        self.quota = quota

    def require_place(self, now_s: float) -> None:
        """Raises QuotaExceeded where one more request is one too many, whatever its length."""
        quota = self.quota
        if quota.max_live is not None and self.num_live >= quota.max_live:
            raise self._refusal(f"{quota.max_live} requests at a time", _LIVE_RETRY_S)
        self._requests = _bucket(self._requests, quota.requests_per_minute, now_s)
        if self._requests is not None and (wait_s := self._requests.wait_s(1, now_s)):
            raise self._refusal(f"{quota.requests_per_minute} requests a minute", wait_s)

    def enter(self, num_tokens: int, now_s: float) -> None:
        """Counts a request in that may use so many tokens; raises QuotaExceeded, and then nothing was counted."""
        self.require_place(now_s)
        self.take_tokens(num_tokens, now_s)
        if self._requests is not None:
            self._requests.take(1)
        self.num_live += 1

    def leave(self, num_unused_tokens: int, now_s: float) -> None:
        """Counts a request out, and gives back the tokens that it did not use."""
        self.num_live -= 1
        self.give_back_tokens(num_unused_tokens, now_s)

    def take_tokens(self, num_tokens: int, now_s: float, spared: float = 0.0) -> None:
        """Takes so many tokens; raises QuotaExceeded, and then nothing was taken.

        Args:
            num_tokens: How many.
            now_s: The time.
            spared: The part of a minute's tokens that has to be left afterwards.
        """
        per_minute = self.quota.tokens_per_minute
        self._tokens = _bucket(self._tokens, per_minute, now_s)
        if self._tokens is None or per_minute is None:
            return
        if wait_s := self._tokens.wait_s(num_tokens + spared * per_minute, now_s):
            limit = f"{per_minute} tokens a minute, of which this request may use {num_tokens}"
            raise self._refusal(limit, wait_s)
        self._tokens.take(num_tokens)

    def give_back_tokens(self, num_tokens: int, now_s: float) -> None:
        """Gives tokens back that were taken and not used."""
        if self._tokens is not None:
            self._tokens.give_back(num_tokens, now_s)

    def _refusal(self, limit: str, wait_s: float) -> QuotaExceeded:
        return QuotaExceeded(self.tenant, limit, jittered(max(_LEAST_RETRY_S, wait_s)))


class UseCount(Protocol):
    """What a request is counted in."""

    def require_place(self, now_s: float) -> None:
        """Raises QuotaExceeded where one more request is one too many, whatever its length."""

    def enter(self, num_tokens: int, now_s: float) -> None:
        """Counts a request in that may use so many tokens; raises QuotaExceeded, and then nothing was counted."""

    def leave(self, num_unused_tokens: int, now_s: float) -> None:
        """Counts a request out, and gives back the tokens that it did not use."""


@dataclass(frozen=True, slots=True)
class ItemsAccount:
    """A tenant's account as items of its jobs use it: tokens alone, and not all of them."""

    account: Account

    def require_place(self, now_s: float) -> None:
        """Does nothing: items wait for tokens, once it is known how many they need."""

    def enter(self, num_tokens: int, now_s: float) -> None:
        """Takes the tokens; raises QuotaExceeded unless enough are left for requests."""
        self.account.take_tokens(num_tokens, now_s, spared=_SPARED_BY_ITEMS)

    def leave(self, num_unused_tokens: int, now_s: float) -> None:
        """Gives back the tokens that were not used."""
        self.account.give_back_tokens(num_unused_tokens, now_s)


class Place:
    """The place of one request in an account, held from its making until `leave`.

    Args:
        account: Whose it is.
        most_tokens: The most that it may use.
        now_s: Gives the time.

    Raises:
        QuotaExceeded: There is none.
    """

    def __init__(self, account: UseCount, most_tokens: int, now_s: Callable[[], float]) -> None:
        account.enter(most_tokens, now_s())
        self._account = account
        self._most_tokens = most_tokens
        self._now_s = now_s
        self._is_held = True

    def leave(self, num_used_tokens: int) -> None:
        """Gives the place back, and the tokens that were not used; does nothing the second time."""
        if self._is_held:
            self._is_held = False
            self._account.leave(self._most_tokens - num_used_tokens, self._now_s())


def _bucket(bucket: _Bucket | None, per_minute: int | None, now_s: float) -> _Bucket | None:
    """Returns the bucket, a new full one where there was none yet, None where there is no limit."""
    if per_minute is None:
        return None
    return bucket or _Bucket(per_minute, per_minute, now_s)
