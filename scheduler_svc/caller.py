"""Knows who sent the request that is worked on, so that clients can take turns.

Each API says so where a request comes in; what is done for the request, in the same task or
in one that it begins, can ask.
"""

from contextvars import ContextVar

# The client's host, as the API has it; those that have none are one client.
_host: ContextVar[str] = ContextVar("caller", default="")
_tenant: ContextVar[str] = ContextVar("tenant", default="")


def set_caller(host: str) -> None:
    """Says whose request the current task works on from here."""
    _host.set(host)


def current_caller() -> str:
    """Returns the host of the client whose request the current task works on."""
    return _host.get()


def set_tenant(tenant: str) -> None:
    """Says on whose behalf the current task works from here."""
    _tenant.set(tenant)


def current_tenant() -> str:
    """Returns on whose behalf the current task works; empty where no API keys tell tenants apart."""
    return _tenant.get()


def host_of_peer(peer: str) -> str:
    """Returns the host in what gRPC calls a peer, ipv4:127.0.0.1:50051 for example: a client has many connections."""
    return peer.rpartition(":")[0] if peer.startswith("ip") else peer
