"""Decides whose piece of work is next where one is done at a time.

Clients take turns, and shorter work of a client passes its longer work for a while. Knows nothing of what is done.
"""

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

from scheduler_svc.caller import current_caller


class Turns:
    """Who waits, by client; what is next is decided when the work before it is over.

    Args:
        patience_chars_per_s: A text lets shorter ones pass that came up to a second later for each so many characters
            that it is longer.
        clock: Returns seconds, by which patience ends.
    """

    def __init__(self, patience_chars_per_s: int, clock: Callable[[], float]) -> None:
        self._patience_chars_per_s = patience_chars_per_s
        self._clock = clock
        self._waiting: dict[str, list[tuple[float, int, asyncio.Future[None]]]] = {}
        self._order = count()
        self._is_busy = False

    @property
    def is_busy(self) -> bool:
        """Whether somebody has the turn, so that others wait."""
        return self._is_busy

    async def take(self, num_chars: int) -> None:
        """Waits for a turn, which lasts until `pass_on`; a caller that leaves before loses it."""
        if self._is_busy:
            turn = asyncio.get_running_loop().create_future()
            due_s = self._clock() + num_chars / self._patience_chars_per_s
            heapq.heappush(self._waiting.setdefault(current_caller(), []), (due_s, next(self._order), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # it was our turn already
                    self.pass_on()
                raise
        self._is_busy = True

    def pass_on(self) -> None:
        """Gives the turn to who is due first of those of the next client, if it still waits."""
        while self._waiting:
            client = next(iter(self._waiting))
            of_client = self._waiting.pop(client)
            _, _, turn = heapq.heappop(of_client)
            if of_client:
                self._waiting[client] = of_client  # at the end
            if not turn.done():
                turn.set_result(None)
                return
        self._is_busy = False

    def close(self) -> None:
        """Drops what waits."""
        for of_client in self._waiting.values():
            for _, _, turn in of_client:
                turn.cancel()
