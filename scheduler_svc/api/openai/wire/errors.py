"""Errors as OpenAI's API writes them, and those that only HTTP has.

ServiceError
└── HttpError              carries `http_status` and `code`
    ├── BodyUnreadable     400: it is no JSON
    ├── BodyNotJson        400: it is not called JSON
    ├── FormUnreadable     400: it is no form with a file in it
    ├── NoHttp             400: what came is no request
    ├── StrangePage        403
    ├── ModelNotFound      404: the request names a model that is not served
    ├── HeadersTooSlow     408
    ├── BodyTooSlow        408
    ├── BodyTooLarge       413
    └── TooManyConnections 503

    ServiceError             -> the HTTP status of its gRPC status, with the time after which to retry if it has one
    a body with wrong fields -> 400 that names the field, what was given and what is allowed
    anything else            -> 500 "internal error"; whoever catches it logs it
"""

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

import grpc
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

from scheduler_svc.api.openai.wire.strict import UNKNOWN_FIELD
from scheduler_svc.api.openai.wire.values import KIND_MARK
from scheduler_svc.errors import (
    NOTHING,
    RETRY_S,
    Amount,
    InvalidRequest,
    MissingField,
    Refusal,
    ServiceError,
    UnknownField,
    jittered,
)

_HTTP_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
}
_CODES = {
    grpc.StatusCode.UNAUTHENTICATED: "invalid_api_key",
    grpc.StatusCode.PERMISSION_DENIED: "permission_denied",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "rate_limit_exceeded",
    grpc.StatusCode.UNAVAILABLE: "service_unavailable",
}
# A field that is not known has any name.
_MAX_FIELD_CHARS = 100
_MAX_SHOWN_CHARS = 100
_PYDANTIC_PREFIX = "Input should be "
# Its words for the bounds of a number.
_BOUNDS = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most")}
# What a value of the wrong type should have been, where pydantic's words are meant for programmers.
_ALLOWED_BY_TYPE = {
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
}


class HttpError(ServiceError):
    """Base of errors that only HTTP has."""

    http_status: ClassVar[HTTPStatus]
    code: ClassVar[str | None] = None
    param: ClassVar[str | None] = None


class BodyUnreadable(HttpError):
    """The body is no JSON."""

    http_status = HTTPStatus.BAD_REQUEST
    status = grpc.StatusCode.INVALID_ARGUMENT
    param = "body"

    def __init__(self, reason: str) -> None:
        super().__init__(f"body: got text that cannot be read, allowed is a JSON object: {reason}")


class BodyNotJson(HttpError):
    """The body is called something else than JSON, or nothing.

    Such a body is not read as JSON all the same where a browser may have sent it: it lets any page do so, unasked.
    """

    http_status = HTTPStatus.BAD_REQUEST
    param = "content-type"

    def __init__(self, given: str | None) -> None:
        shown = "nothing" if given is None else repr(given[:_MAX_SHOWN_CHARS])
        super().__init__(
            f"content-type: got {shown}, allowed is application/json; with curl: -H 'content-type: application/json'"
        )


class FormUnreadable(HttpError):
    """The body of an upload is no form with a file in it."""

    http_status = HTTPStatus.BAD_REQUEST
    status = grpc.StatusCode.INVALID_ARGUMENT
    param = "body"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"body: got no form that can be read, allowed is multipart/form-data with a file and a purpose: {reason}"
        )


class NoHttp(HttpError):
    """What came over a connection is no request that can be read."""

    http_status = HTTPStatus.BAD_REQUEST

    def __init__(self) -> None:
        super().__init__("what came is no HTTP/1.1, or the headers of a request are larger than 64 KiB")


class ModelNotFound(HttpError):
    """The model that is named is not the one that is served."""

    http_status = HTTPStatus.NOT_FOUND
    status = grpc.StatusCode.NOT_FOUND
    refusal = Refusal.INVALID
    code = "model_not_found"
    param = "model"

    def __init__(self, given: str, served: Sequence[str]) -> None:
        allowed = " or ".join(map(repr, served))
        super().__init__(f"model: got {given[:_MAX_SHOWN_CHARS]!r}, allowed is {allowed}, which is served")


class BodyTooLarge(HttpError):
    """The body is larger than any request needs."""

    http_status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"body: got too many bytes, allowed are at most {max_bytes}")


class BodyPacked(HttpError):
    """The body is compressed: what it unpacks to is not known before."""

    http_status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE

    def __init__(self, given: str) -> None:
        super().__init__(f"content-encoding: got {given[:_MAX_SHOWN_CHARS]!r}, allowed is none: send the body as it is")


class StrangeHost(HttpError):
    """The request is for another host, which leads here by mistake or by trickery."""

    http_status = HTTPStatus.MISDIRECTED_REQUEST

    def __init__(self, given: str) -> None:
        super().__init__(
            f"host: got {given[:_MAX_SHOWN_CHARS]!r}, allowed are addresses and names of this machine, and those of "
            "--cors-origin; with --api-keys or --insecure any will do"
        )


class StrangePage(HttpError):
    """A web page of another origin wants something to be done."""

    http_status = HTTPStatus.FORBIDDEN
    code = "permission_denied"

    def __init__(self, given: str) -> None:
        super().__init__(
            f"origin: got {given[:_MAX_SHOWN_CHARS]!r}, allowed are this service's own and those of --cors-origin"
        )


class HeadersTooSlow(HttpError):
    """The headers did not come in time."""

    http_status = HTTPStatus.REQUEST_TIMEOUT

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"headers: they did not come within {timeout_s:g} s")


class BodyTooSlow(HttpError):
    """The body did not come in time."""

    http_status = HTTPStatus.REQUEST_TIMEOUT

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"body: it did not come within {timeout_s:g} s")


class TooManyConnections(HttpError):
    """Requests run on as many connections as there may be."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "service_unavailable"

    def __init__(self) -> None:
        super().__init__("a request runs on each of the connections that there may be; try again later")
        self.retry_after_s = jittered(RETRY_S)


_ENDS_OF_CONNECTIONS = (BodyTooLarge, BodyTooSlow, HeadersTooSlow, NoHttp, TooManyConnections)


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


def http_status_of(status: grpc.StatusCode) -> int:
    """Returns the HTTP status that stands for one of gRPC's."""
    return int(_HTTP_STATUS.get(status, HTTPStatus.INTERNAL_SERVER_ERROR))


def body_of_status(status: grpc.StatusCode, message: str) -> dict[str, object]:
    """Returns an error of which its status and its message are known, as an object of OpenAI's API."""
    return _body(message, http_status_of(status), code=_CODES.get(status))


def invalid_body(error: RequestValidationError, content_type: str | None) -> ServiceError:
    """Returns the first thing that is wrong with a body of that type."""
    first = error.errors()[0]
    if isinstance(first["input"], bytes):  # FastAPI reads no body that is not called JSON
        return BodyNotJson(content_type)
    if first["type"] == "json_invalid":
        return BodyUnreadable(f"{first['ctx']['error']} at character {first['loc'][1]}")
    path = [part for part in first["loc"][1:] if not str(part).startswith(KIND_MARK)]
    path += [field for name, field in first.get("ctx", {}).items() if name == "field"]
    if not path:
        return InvalidRequest("body", NOTHING if first["type"] == "missing" else first["input"], "a JSON object")
    return _invalid_field(_field(path), first)


def invalid_object(error: ValidationError) -> ServiceError:
    """Returns the first thing that is wrong with an object that was read from elsewhere than a request's body."""
    located = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
    return invalid_body(RequestValidationError(located), None)


def _invalid_field(field: str, problem: Mapping[str, Any]) -> InvalidRequest:
    kind, context = problem["type"], problem.get("ctx", {})
    given = context.get("given", problem["input"])
    if kind == "missing":
        return MissingField(field)
    if kind == UNKNOWN_FIELD:
        return UnknownField(field, given, context["suggestion"])
    if kind == "too_long":
        return InvalidRequest(field, Amount(len(given), "items"), f"at most {context['max_length']} items")
    return InvalidRequest(field, given, _allowed(kind, problem["msg"], context))


def _allowed(kind: str, message: str, context: Mapping[str, object]) -> str:
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{words} {context[name]}"
    return _ALLOWED_BY_TYPE.get(kind) or message.removeprefix(_PYDANTIC_PREFIX)


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
    return http_status_of(error.status)


def _headers(error: ServiceError) -> dict[str, str]:
    """Returns when to come back: whole seconds as HTTP has them, and the exact time that OpenAI's clients read first.

    A connection whose request was not read to its end is of no further use. Who has no key is told how to show one.
    """
    headers = {"connection": "close"} if isinstance(error, _ENDS_OF_CONNECTIONS) else {}
    if error.status is grpc.StatusCode.UNAUTHENTICATED:
        headers["www-authenticate"] = 'Bearer realm="qllm"'
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1e3))
    return headers
