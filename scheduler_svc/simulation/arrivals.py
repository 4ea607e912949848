"""Who asks when: requests at times that are known beforehand, and clients that ask again once they are answered.

Knows nothing of the core; time is an argument.
"""

import heapq
import random
from collections import abc
from dataclasses import dataclass
from typing import NamedTuple

from scheduler_svc.core.state.sequence import RequestClass, SessionTurn

_NEVER_S = float("inf")


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the traffic."""

    arrival_s: float
    request_class: RequestClass
    num_prompt_tokens: int
    num_output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """Clients of one class that never pause, each with a request under way from the start to the end.

    Attributes:
        num_prompt_tokens: Tokens of a prompt, on average.
        prompt_spread: By which share of that prompts are shorter or longer at most, lest the clients stay in step.
        from_s: When the window begins in which throughput is counted.
        until_s: When it ends. The clients go on until the other requests that came before have ended.
        seed: Fixes the lengths of the prompts, for each client by itself.
    """

    num_clients: int
    num_prompt_tokens: int
    num_output_tokens: int
    until_s: float
    from_s: float = 0.0
    request_class: RequestClass = RequestClass.BEST_EFFORT
    prompt_spread: float = 0.2
    seed: int = 0

    @property
    def longest_prompt(self) -> int:
        """The most tokens that a prompt may have."""
        return round(self.num_prompt_tokens * (1 + self.prompt_spread))


class Turn(NamedTuple):
    """A turn of a program, by that one's number."""

    program: int
    session: SessionTurn


class Arrival(NamedTuple):
    """A request, and which client of the closed loop or program asks it; None: its time was known beforehand."""

    request: Request
    client: int | None = None
    turn: Turn | None = None


class Arrivals:
    """The requests to come.

    Args:
        requests: Those whose times are known, in any order.
        closed_loop: The clients; each asks first at 0.
    """

    def __init__(self, requests: abc.Sequence[Request], closed_loop: ClosedLoop | None) -> None:
        self._requests = sorted(requests, key=lambda request: request.arrival_s, reverse=True)  # the next one is last
        self._closed_loop = closed_loop
        num_clients = closed_loop.num_clients if closed_loop else 0
        self._lengths = [random.Random(f"{closed_loop.seed} {n}") for n in range(num_clients)] if closed_loop else []
        self._clients = [(0.0, client) for client in range(num_clients)]

    @property
    def next_s(self) -> float:
        """When the next one comes; infinity if none does."""
        known_s = self._requests[-1].arrival_s if self._requests else _NEVER_S
        return min(known_s, self._clients[0][0] if self._clients else _NEVER_S)

    def ask_again(self, client: int, now_s: float) -> None:
        """Lets a client ask its next request, as its last one has ended."""
        heapq.heappush(self._clients, (now_s, client))

    def take_due(self, now_s: float) -> abc.Iterator[Arrival]:
        """Yields the requests that have come until now, and drops them."""
        while self._requests and self._requests[-1].arrival_s <= now_s:
            yield Arrival(self._requests.pop())
        while self._clients and self._clients[0][0] <= now_s:
            at_s, client = heapq.heappop(self._clients)
            yield Arrival(self._draw(client, at_s), client)

    def _draw(self, client: int, at_s: float) -> Request:
        loop = self._closed_loop
        assert loop is not None
        length = loop.num_prompt_tokens * self._lengths[client].uniform(1 - loop.prompt_spread, 1 + loop.prompt_spread)
        return Request(at_s, loop.request_class, max(1, round(length)), loop.num_output_tokens)
