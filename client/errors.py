"""Errors that a call on the service can end with.

    QllmError                    carries `status` (a grpc.StatusCode), the service's message, and `retry_after_s`
    ├── InvalidRequest           INVALID_ARGUMENT: the message names the field, what was given and what is allowed
    ├── DuplicateRequest         ALREADY_EXISTS: the request id belongs to a live request
    ├── Unauthenticated          UNAUTHENTICATED: it needs an API key, or does not know the one that was sent
    ├── PermissionDenied         PERMISSION_DENIED: the API key may not do that
    ├── Overloaded               RESOURCE_EXHAUSTED: it holds as many requests as it may, or as the tenant may have
    ├── Unavailable              UNAVAILABLE: it has no worker, or the connection was lost
    │   └── Unreachable          no service answers at the address
    ├── DeadlineExceeded         DEADLINE_EXCEEDED: `timeout_s` passed before the answer was complete
    ├── Cancelled                CANCELLED: the stream was cancelled before it ended
    └── ServerError              any other status

A message is the service's own words, and names what was given and what is allowed where that helps.
"""

from typing import Self

import grpc
from google.rpc import error_details_pb2, status_pb2

_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_DETAILS_KEY = "grpc-status-details-bin"


class QllmError(Exception):
    """Base of all errors of this package.

    Attributes:
        status: How the call ended.
        retry_after_s: Seconds to wait before trying again; None if the service named no time.
    """

    status: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    retry_after_s: float | None = None

    @classmethod
    def from_rpc(cls, rpc_error: grpc.aio.AioRpcError) -> Self:
        """Makes the error from a call's final status."""
        error = cls(rpc_error.details() or "the service gave no message")
        error.retry_after_s = _retry_after_s(rpc_error)
        return error


class InvalidRequest(QllmError):
    """A field of the request is not allowed; sending it again cannot help."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class DuplicateRequest(QllmError):
    """The request id belongs to a live request."""

    status = grpc.StatusCode.ALREADY_EXISTS


class Unauthenticated(QllmError):
    """The service needs an API key, or does not know the one that was sent."""

    status = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(QllmError):
    """The API key may not do that; the message names the permission, or what is allowed."""

    status = grpc.StatusCode.PERMISSION_DENIED


class Overloaded(QllmError):
    """The service holds as many requests of the class as it may, or the tenant uses as much as it may."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(QllmError):
    """The service cannot run requests now, or cannot be reached."""

    status = grpc.StatusCode.UNAVAILABLE


class Unreachable(Unavailable):
    """No service answers at the address; the message names it, why, and what helps.

    Attributes:
        option: What an option of `qllm-client` can do about it, in words that go on where the message ends.
    """

    option: str = ""


class DeadlineExceeded(QllmError):
    """The call's time ran out."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(QllmError):
    """The stream was cancelled before it ended."""

    status = grpc.StatusCode.CANCELLED


class ServerError(QllmError):
    """The service failed in a way that has no class of its own; `status` says how."""

    status = grpc.StatusCode.INTERNAL

    @classmethod
    def from_rpc(cls, rpc_error: grpc.aio.AioRpcError) -> Self:
        """Makes the error from a call's final status, which it keeps."""
        error = super().from_rpc(rpc_error)
        error.status = rpc_error.code()
        return error


_KINDS: tuple[type[QllmError], ...] = (
    InvalidRequest,
    DuplicateRequest,
    Unauthenticated,
    PermissionDenied,
    Overloaded,
    Unavailable,
    DeadlineExceeded,
    Cancelled,
)
_KIND_BY_STATUS: dict[grpc.StatusCode, type[QllmError]] = {kind.status: kind for kind in _KINDS}


def error_from_rpc(rpc_error: grpc.aio.AioRpcError) -> QllmError:
    """Returns the error of this package that stands for a call's final status."""
    return _KIND_BY_STATUS.get(rpc_error.code(), ServerError).from_rpc(rpc_error)


def _retry_after_s(rpc_error: grpc.aio.AioRpcError) -> float | None:
    """Reads the time to wait from RetryInfo (google.rpc), or else from the pushback that gRPC itself defines."""
    trailing = dict(rpc_error.trailing_metadata())
    details = trailing.get(_DETAILS_KEY)
    if isinstance(details, bytes):
        for detail in status_pb2.Status.FromString(details).details:
            retry_info = error_details_pb2.RetryInfo()
            if detail.Unpack(retry_info):
                return float(retry_info.retry_delay.ToTimedelta().total_seconds())
    pushback_ms = trailing.get(_PUSHBACK_KEY)
    return float(pushback_ms) / 1e3 if pushback_ms is not None else None
