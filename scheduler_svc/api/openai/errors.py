"""Errors as OpenAI's API writes them, and those that only HTTP has.

ServiceError
└── HttpError              carries `http_status` and `code`
    ├── BodyUnreadable     400: it is no JSON
    ├── ModelNotFound      404: the request names a model that is not served
    ├── BodyTooSlow        408
    └── BodyTooLarge       413

    ServiceError             -> the HTTP status of its gRPC status; overload with the time after which to retry
    a body with wrong fields -> 400 that names the field, what was given and what is allowed
    anything else            -> 500 "internal error"; whoever catches it logs it
"""

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar

import grpc
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from scheduler_svc.api.openai.schemas import KIND_MARK
from scheduler_svc.errors import InvalidRequest, Overloaded, ServiceError

_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
_CODES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "rate_limit_exceeded",
    grpc.StatusCode.UNAVAILABLE: "service_unavailable",
}
# A field that is not known has any name.
_MAX_FIELD_CHARS = 100
_PYDANTIC_PREFIX = "Input should be "


class HttpError(ServiceError):
    """Base of errors that only HTTP has."""

    http_status: ClassVar[HTTPStatus]
    code: ClassVar[str | None] = None
    param: ClassVar[str | None] = None


class BodyUnreadable(HttpError):
    """The body is no JSON."""

    http_status = HTTPStatus.BAD_REQUEST
    param = "body"

    def __init__(self, reason: str) -> None:
        super().__init__(f"body: got text that cannot be read, allowed is a JSON object: {reason}")


class ModelNotFound(HttpError):
    """The model that is named is not the one that is served."""

    http_status = HTTPStatus.NOT_FOUND
    code = "model_not_found"
    param = "model"

    def __init__(self, given: str, served: str) -> None:
        super().__init__(f"model: got {given[:100]!r}, allowed is {served!r}, which is served")


class BodyTooLarge(HttpError):
    """The body is larger than any request needs."""

    http_status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"body: got too many bytes, allowed are at most {max_bytes}")


class BodyTooSlow(HttpError):
    """The body did not come in time."""

    http_status = HTTPStatus.REQUEST_TIMEOUT

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"body: it did not come within {timeout_s:g} s")


def error_response(error: ServiceError) -> Response:
    """Returns the answer to a request that fails with `error`."""
    return _json_response(error_body(error), _status(error), _headers(error))


def plain_error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Returns the answer to a request that never became one of ours."""
    return _json_response(_body(message, status), status, headers)


def error_body(error: ServiceError) -> dict[str, object]:
    """Returns the error as an object of OpenAI's API."""
    if isinstance(error, HttpError):
        return _body(str(error), error.http_status, error.param, error.code)
    param = error.field if isinstance(error, InvalidRequest) else None
    return _body(str(error), _status(error), param, _CODES.get(error.status))


def invalid_body(error: RequestValidationError) -> ServiceError:
    """Returns the first thing that is wrong with a body."""
    first = error.errors()[0]
    context = first.get("ctx", {})
    if first["type"] == "json_invalid":
        return BodyUnreadable(f"{context['error']} at character {first['loc'][1]}")
    path = [part for part in first["loc"][1:] if not str(part).startswith(KIND_MARK)]
    path += [context["field"]] if "field" in context else []
    if not path:
        return InvalidRequest("body", first["input"], "a JSON object, sent as application/json")
    if first["type"] == "missing":
        return InvalidRequest(_field(path), None, "a value: the field is required")
    allowed = str(first["msg"]).removeprefix(_PYDANTIC_PREFIX)
    return InvalidRequest(_field(path), context.get("given", first["input"]), allowed)


def _field(path: Sequence[object]) -> str:
    """Returns a path such as messages[3].role."""
    field = ""
    for part in path:
        if isinstance(part, int):
            field += f"[{part}]"
        else:
            field += f".{part}" if field else str(part)
    return field[:_MAX_FIELD_CHARS]


def _body(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": _type(status), "param": param, "code": code}}


def _type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def _json_response(content: object, status: int, headers: Mapping[str, str] | None) -> Response:
    """ASCII, so that what is quoted of a request may be halves of characters."""
    return Response(json.dumps(content), status, headers, media_type="application/json")


def _status(error: ServiceError) -> int:
    if isinstance(error, HttpError):
        return error.http_status
    return _HTTP_STATUS.get(error.status, HTTPStatus.INTERNAL_SERVER_ERROR)


def _headers(error: ServiceError) -> dict[str, str]:
    """Returns when to come back: whole seconds as HTTP has them, and the exact time that OpenAI's clients read first.

    A connection whose request was not read to its end is of no further use.
    """
    if isinstance(error, BodyTooLarge | BodyTooSlow):
        return {"connection": "close"}
    if not isinstance(error, Overloaded):
        return {}
    return {
        "retry-after": str(max(1, math.ceil(error.retry_after_s))),
        "retry-after-ms": str(math.ceil(error.retry_after_s * 1e3)),
    }
