"""Where a front end listens, and whom it lets in. Knows no wire format."""

from dataclasses import dataclass

from scheduler_svc.security.gate import Gate
from scheduler_svc.security.tls import Certificates


@dataclass(frozen=True, slots=True)
class Listening:
    """An address, and what callers need there.

    Attributes:
        host: IP address, without brackets; anything but a loopback address is open to others.
        port: 0 for any free port.
        gate: Knows the API keys; None: none are asked for.
        certificates: Those that it shows and asks for; None: it speaks plainly.
        names: Of this machine, besides localhost and addresses, to which alone HTTP answers; None: any name will do.
    """

    host: str = "127.0.0.1"
    port: int = 0
    gate: Gate | None = None
    certificates: Certificates | None = None
    names: frozenset[str] | None = None
