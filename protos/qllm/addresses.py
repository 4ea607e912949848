"""One reading of network addresses for everything that listens or connects, over gRPC or HTTP.

    to listen on:   127.0.0.1   ::1   [::1]   localhost   a name of this machine   -> one IP address
    to connect to:  HOST:PORT   [IPv6]:PORT   unix:PATH   another target of gRPC's -> `Target`

Knows nothing of sockets and channels.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import unquote

_ALLOWED_TARGETS = "allowed are HOST:PORT, [IPv6]:PORT and unix:PATH"
_MAX_PORT = 65535
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^\s\[\]:/]+)):(?P<port>[0-9]{1,9})")
_SCHEME = re.compile(r"(?P<scheme>unix|unix-abstract|dns|ipv4|ipv6|vsock|xds):(?![0-9]+$)(?P<rest>.+)", re.IGNORECASE)


class AddressRefused(ValueError):
    """An address that cannot be one; the message says what was given and what is allowed."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a service listens.

    Attributes:
        name: As gRPC takes it.
        is_local: Whether it is on this machine, so that no proxy may stand in between.
    """

    name: str
    is_local: bool


def read_target(given: str) -> Target:
    """Reads the address of a service.

    Raises:
        AddressRefused: It names no host or no port, or is a URL.
    """
    if scheme := _SCHEME.fullmatch(given):
        is_socket = scheme["scheme"].lower().startswith("unix")
        hosts = unquote(scheme["rest"].rsplit("/", 1)[-1]).split(",")
        return Target(given, is_socket or all(map(_is_local, hosts)))
    if "://" in given:
        raise AddressRefused(f"got {given!r}, which is a URL; {_ALLOWED_TARGETS}")
    match = _HOST_PORT.fullmatch(given)
    if match is None:
        what = "no port" if given and not given.startswith(":") else "no host"
        raise AddressRefused(f"got {given!r}, which names {what}; {_ALLOWED_TARGETS}")
    if match["v6"] is not None and not _is_ipv6(match["v6"]):
        raise AddressRefused(f"got {given!r}, whose brackets hold no IPv6 address; {_ALLOWED_TARGETS}")
    if not 1 <= int(match["port"]) <= _MAX_PORT:
        raise AddressRefused(f"got {given!r}, whose port is not within 1 to {_MAX_PORT}; {_ALLOWED_TARGETS}")
    return Target(given, _is_local(given))


def listening_ip(given: str) -> str:
    """Returns the IP address that is listened on for a host, as a literal without brackets.

    A name stands for the first address that it has; `localhost` is 127.0.0.1, whatever the machine's files say of it.

    Raises:
        AddressRefused: It is no address, and a name that has none.
    """
    host = given[1:-1] if given.startswith("[") and given.endswith("]") and _is_ipv6(given[1:-1]) else given
    if host == "localhost":
        return "127.0.0.1"
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE) if host else []
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise AddressRefused(f"got {given!r}, allowed is an IP address, localhost, or a name that has an address")
    return str(found[0][4][0])


def join(host: str, port: int) -> str:
    """Returns "host:port", with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Tells whether a host is this machine, without asking anybody."""
    if host.lower().removesuffix(".") in ("localhost", "ip6-localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def _is_local(host_port: str) -> bool:
    match = _HOST_PORT.fullmatch(host_port)
    return match is not None and is_loopback(match["v6"] or match["host"])


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
