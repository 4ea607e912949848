"""Decides how many file descriptors the process has, and how many of them connections may take.

    the limit:  │ reserve: worker, control channel, files, a burst of accepts │ HTTP │ gRPC, as much │

A flood on one front end takes nothing from the other, and nothing that a new worker needs. Knows no protocol.
"""

import asyncio
import logging
import resource
from collections.abc import Callable
from typing import Any

from scheduler_svc.process.rarely import Rarely

_log = logging.getLogger(__name__)

# More than this is of no use: each front end has its most connections then.
_MOST_DESCRIPTORS = 65_536
_RESERVE = 256
# More than requests may be live by default, so that overload is refused by class and not by connection.
MOST_CONNECTIONS = 20_000
_FEWEST_CONNECTIONS = 16
_ACCEPT_FAILED = "socket.accept() out of system resource"


def raise_descriptor_limit() -> int:
    """Raises the soft limit of this process to its hard one, as far as that is of use; returns the limit.

    The usual soft limit of 1,024 is for programs that call `select`, which this one and its worker do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_DESCRIPTORS
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


def max_connections(limit: int, num_front_ends: int) -> int:
    """Returns how many connections each front end may hold under a limit on descriptors."""
    return max(_FEWEST_CONNECTIONS, min(MOST_CONNECTIONS, (limit - _RESERVE) // num_front_ends))


def log_failed_accepts_rarely() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Returns an exception handler for an event loop.

    Once descriptors have run out, asyncio reports the failed accept thousands of times a second.
    """
    rarely = Rarely()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") != _ACCEPT_FAILED:
            loop.default_exception_handler(context)
        elif rarely.is_due():
            _log.error("connections_wait reason=%r (said once a minute)", str(context.get("exception")))

    return handle
