"""How much of the service one client, or all together, may take over HTTP, and how long a client may take."""

from dataclasses import dataclass

from scheduler_svc.process.descriptors import MOST_CONNECTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """The limits of the HTTP endpoint.

    Attributes:
        max_connections: Connections at a time.
        header_timeout_s: Seconds within which the whole headers of a request must have come: from the connection's
            begin for its first request, from the first byte for others.
        body_timeout_s: Seconds within which a body must have come, or the rest of one that was answered before its end.
        keep_alive_s: Seconds that a connection is kept without a request.
        comment_interval_s: A stream that has nothing to tell sends a comment so often, since proxies cut silent ones
            (nginx and load balancers of clouds: after 60 s).
        slow_reader_s: Seconds after which a connection is cut whose client takes nothing of what is on its way.
    """

    max_connections: int = MOST_CONNECTIONS
    header_timeout_s: float = 15.0
    body_timeout_s: float = 60.0
    keep_alive_s: int = 65
    comment_interval_s: float = 15.0
    slow_reader_s: float = 60.0


DEFAULT_LIMITS = HttpLimits()
