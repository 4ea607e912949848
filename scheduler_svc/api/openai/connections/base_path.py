"""Lets a base URL end with /v1 or not: each path of the application is met under both.

    POST /chat/completions  -> /v1/chat/completions, as with base_url="http://host:8000"
    POST /v1/tokenize       -> /tokenize,            as with base_url="http://host:8000/v1"

Stands before whatever judges a path (keys, uploads, routes), so that nothing is open under one of its two names only.
"""

from collections.abc import Iterable, Set

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/v1"


class BasePath:
    """An ASGI application around another one.

    Args:
        app: The application.
        routes: Where it is met. A path that begins as none of them does stays as it is.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        paths = [route.path for route in routes if isinstance(route, Route)]
        self._below_prefix = _first_words(path.removeprefix(PREFIX) for path in paths if _has_prefix(path))
        self._at_root = _first_words(path for path in paths if not _has_prefix(path))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        path = self.path_of(scope["path"])
        if path != scope["path"]:
            scope = {**scope, "path": path, "raw_path": self.path_of(scope["raw_path"].decode("ascii")).encode()}
        await self._app(scope, receive, send)

    def path_of(self, given: str) -> str:
        """Returns the application's own name of a path."""
        if not _has_prefix(given):
            return PREFIX + given if _first_word(given) in self._below_prefix - self._at_root else given
        rest = given.removeprefix(PREFIX) or "/"
        return rest if _first_word(rest) in self._at_root - self._below_prefix else given


def _has_prefix(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def _first_words(paths: Iterable[str]) -> Set[str]:
    return frozenset(map(_first_word, paths))


def _first_word(path: str) -> str:
    return path[1:].partition("/")[0]
