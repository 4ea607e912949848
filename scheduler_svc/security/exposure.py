"""Decides who may reach an address: beyond this machine only with TLS and API keys, or if told to."""

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from qllm.addresses import join


class ExposureRefused(ValueError):
    """An address that others can reach, without what keeps them out; the message says what to give."""


def own_names(host: str, origins: Sequence[str], *, has_keys: bool, is_insecure: bool) -> frozenset[str] | None:
    """Returns the names of this machine to which an API answers that is there for this machine alone; else None.

    Args:
        host: The IP address that it listens on.
        origins: Of web pages that may ask: it may have the names of theirs.
        has_keys: Whether it asks for API keys, which no page in a browser has.
        is_insecure: Whether others may reach it as it is, through a proxy on this machine for example.
    """
    if has_keys or is_insecure or "*" in origins or not _is_loopback(host):
        return None
    return frozenset((socket.gethostname().lower(), *(urlsplit(origin).hostname or "" for origin in origins)))


def require_protection(option: str, host: str, port: int, *, has_tls: bool, has_keys: bool) -> None:
    """Raises ExposureRefused if others can reach an API that lacks TLS or API keys.

    Args:
        option: What sets the host.
        host: An IP address, without brackets.
        port: The port, for the message.
        has_tls: Whether it speaks TLS.
        has_keys: Whether it asks for API keys.
    """
    if _is_loopback(host) or (has_tls and has_keys):
        return
    missing = [*(() if has_tls else ("--tls-cert and --tls-key",)), *(() if has_keys else ("--api-keys",))]
    raise ExposureRefused(
        f"{option}: got {join(host, port)}, which other machines can reach; give {' and '.join(missing)}, or "
        "--insecure to let in whoever reaches it"
    )


def require_loopback(option: str, host: str, port: int) -> None:
    """Raises ExposureRefused if others can reach what speaks plainly and asks for no key."""
    if not _is_loopback(host):
        raise ExposureRefused(
            f"{option}: got {join(host, port)}, which other machines can reach; metrics have neither TLS nor keys of "
            "their own: take those of --http-port, or give --insecure to let whoever reaches it read them"
        )


def _is_loopback(host: str) -> bool:
    """Unlike where one connects to, the address for all of a machine's own is not its loopback."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
