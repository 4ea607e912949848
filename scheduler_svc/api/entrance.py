"""Knows which generations are under way, and lets no new one in once the service is to stop.

    open ──close──▶ closed: new ones are refused with a time to come back ──the last one leaves──▶ empty

Knows no wire format, and no time.
"""

import asyncio

from scheduler_svc.errors import ServiceStopping


class Entrance:
    """The way in, the same for every front end."""

    def __init__(self) -> None:
        self._inside: set[object] = set()
        self._is_closed = False
        self._left = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """Whether the service is to stop."""
        return self._is_closed

    @property
    def num_inside(self) -> int:
        """Generations that are under way."""
        return len(self._inside)

    def close(self) -> None:
        """Refuses new generations from now on; those under way go on."""
        self._is_closed = True

    def require_open(self) -> None:
        """Raises ServiceStopping once it is closed."""
        if self._is_closed:
            raise ServiceStopping

    def enter(self, generation: object) -> None:
        """Takes in that a generation begins."""
        self._inside.add(generation)

    def leave(self, generation: object) -> None:
        """Takes in that it ended, whoever ended it; nothing happens if that is known."""
        self._inside.discard(generation)
        self._left.set()

    async def empty(self) -> None:
        """Waits until no generation is under way."""
        while self._inside:
            self._left.clear()
            await self._left.wait()
