"""Listens on an address of this machine. Knows no protocol."""

import socket


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """Returns a socket that listens; on the IPv6 address for all of them also for IPv4, as gRPC does.

    Args:
        host: An IP address, without brackets.
        port: 0 for any free port.
        backlog: Connections that may wait to be accepted.

    Raises:
        OSError: The address cannot be had.
    """
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    is_any = address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address[:2], family=family, backlog=backlog, dualstack_ipv6=is_any)
