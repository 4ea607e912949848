"""Decides who may hold a connection when there are too many: work goes before waiting, the newest before the oldest.

Pure: knows no socket.
"""

import logging
from typing import Protocol

from scheduler_svc.process.rarely import Rarely

_log = logging.getLogger(__name__)

# Each holds a descriptor beside those that have places, for a second at most.
_MOST_TURNED_AWAY = 64


class Guest(Protocol):
    """A connection, as far as its place is concerned."""

    def give_way(self) -> None:
        """Closes the connection, on which no request runs."""


class ConnectionRoom:
    """Room for so many connections at a time.

    Where it is full, the connection that has been without a request for longest gives way to a new one: a thousand
    silent connections then keep nobody out. Only where a request runs on every one is a new connection turned away.

    Args:
        name: Whose room it is, for the log.
        size: The most connections at a time.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._guests: set[Guest] = set()
        self._waiting: dict[Guest, None] = {}  # in the order in which they began to wait
        self._turned_away: set[Guest] = set()
        self._rarely = Rarely()

    def __len__(self) -> int:
        """Returns the number of connections."""
        return len(self._guests)

    def enter(self, guest: Guest) -> bool:
        """Takes in a connection, which waits for its first request; returns False if there is no place for it."""
        if len(self._guests) >= self._size and not self._make_place():
            return False
        self._guests.add(guest)
        self._waiting[guest] = None
        return True

    def turn_away(self, guest: Guest) -> bool:
        """Lets a connection without a place stay to hear why, until it leaves; returns False if too many do so."""
        if len(self._turned_away) >= _MOST_TURNED_AWAY:
            return False
        self._turned_away.add(guest)
        return True

    def note_waiting(self, guest: Guest) -> None:
        """Notes that no request runs on a connection; one that is known to wait keeps its turn."""
        if guest in self._guests:
            self._waiting.setdefault(guest, None)

    def note_working(self, guest: Guest) -> None:
        """Notes that a request runs on a connection."""
        self._waiting.pop(guest, None)

    def leave(self, guest: Guest) -> None:
        """Gives the place of a connection back, if it has one."""
        self._turned_away.discard(guest)
        self._waiting.pop(guest, None)
        self._guests.discard(guest)

    def _make_place(self) -> bool:
        longest = next(iter(self._waiting), None)
        if self._rarely.is_due():
            what = "one without a request gives way" if longest else "new ones are refused"
            _log.warning("connections_full of=%s limit=%d: %s (said once a minute)", self._name, self._size, what)
        if longest is None:
            return False
        self.leave(longest)
        longest.give_way()
        return True
