"""Lets a request go on only with an API key that allows it, and says on whose behalf it goes on.

Stands before the body is read. Knows the paths and what each needs, and nothing of what they do.
"""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from scheduler_svc.api.openai.wire.errors import error_response, plain_error_response
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import ServiceError
from scheduler_svc.security.gate import ANY_KEY, OPEN, Gate, Rule
from scheduler_svc.security.grant import Permission, act_for

_GENERATE = Rule((Permission.GENERATE,))
_BATCH = Rule((Permission.GENERATE,), RequestClass.BEST_EFFORT)
_ROOT = "/"
# A path, or what paths below another begin with. A test proves that no route is left out.
RULES = {
    "/health": OPEN,
    "/health/live": OPEN,
    "/health/ready": OPEN,
    "/ping": OPEN,
    "/v1/completions": _GENERATE,
    "/v1/chat/completions": _GENERATE,
    "/v1/responses": _GENERATE,
    "/tokenize": _GENERATE,
    "/detokenize": _GENERATE,
    "/v1/files": _BATCH,
    "/v1/files/": _BATCH,
    "/v1/batches": _BATCH,
    "/v1/batches/": _BATCH,
    "/v1/models": ANY_KEY,
    "/v1/models/": ANY_KEY,
    "/version": ANY_KEY,
    _ROOT: ANY_KEY,
    "/openapi.json": ANY_KEY,
    "/metrics": Rule((Permission.OBSERVE,)),
}
_MAX_SHOWN_CHARS = 100


def rule_of(path: str) -> Rule | None:
    """Returns the rule of a path; None if there is none."""
    if path in RULES and (path == _ROOT or not path.endswith("/")):
        return RULES[path]
    above = (start for start in RULES if start != _ROOT and start.endswith("/") and path.startswith(start))
    return next((RULES[start] for start in above), None)


class KeyCheck:
    """An ASGI application around another one, for requests with an ordinary target and method.

    Args:
        app: The application.
        gate: Knows the keys.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        rule = rule_of(scope["path"])
        if rule is not None and rule.is_open:
            await self._app(scope, receive, send)
            return
        try:
            grant = self._gate.grant_of(Headers(scope=scope).get("authorization"))
            if rule is not None:
                rule.check(grant, f"{scope['method']} {scope['path']}"[:_MAX_SHOWN_CHARS])
        except ServiceError as refusal:
            await error_response(refusal)(scope, receive, send)
            return
        if rule is None and not grant.may(Permission.ADMIN):
            # Nothing has been said of who may ask for it, so it is not there.
            asked = f"{scope['method']} {scope['path']}"[:_MAX_SHOWN_CHARS]
            await plain_error_response(HTTPStatus.NOT_FOUND, f"{asked}: Not Found")(scope, receive, send)
            return
        act_for(grant)
        await self._app(scope, receive, send)
