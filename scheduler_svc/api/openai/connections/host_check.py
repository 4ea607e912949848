"""Refuses who was made to believe that this machine is somebody's web site.

The owner of evil.example may have that name lead to 127.0.0.1 once its page is in a browser on this machine (DNS
rebinding): the page then asks here, and reads the answers, as if they were its own site's. Its requests name that host.
So a service that is there for this machine alone, and asks for no key, answers to names of this machine only.
"""

from collections.abc import Set
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from scheduler_svc.api.openai.wire.errors import StrangeHost, error_response

# Nobody can have a name below these in the public DNS.
_OWN_ENDINGS = (".localhost", ".local", ".internal")


class HostCheck:
    """An ASGI application around another one.

    Args:
        app: The application.
        names: Names that it answers to, in lower case, besides localhost and addresses.
    """

    def __init__(self, app: ASGIApp, names: Set[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        given = Headers(scope=scope).get("host", "")
        if self._is_own(_name_in(given)):
            await self._app(scope, receive, send)
        else:
            await error_response(StrangeHost(given))(scope, receive, send)

    def _is_own(self, name: str) -> bool:
        return not name or name == "localhost" or name in self._names or name.endswith(_OWN_ENDINGS) or _is_ip(name)


def _name_in(host: str) -> str:
    """Returns the name in a header such as localhost:8000 or [::1]:8000."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".").lower()


def _is_ip(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
