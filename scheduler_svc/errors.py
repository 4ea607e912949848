"""Errors that leave the service as a gRPC status.

ServiceError                 carries `status` and a message for the caller
├── InvalidRequest           INVALID_ARGUMENT: names the field, what was given and what is allowed
├── DuplicateRequest         ALREADY_EXISTS: the request id is live
├── Overloaded               RESOURCE_EXHAUSTED: the class's limit is reached; carries `retry_after_s`
├── WorkerUnavailable        UNAVAILABLE: no worker, or it went away while the request was live
└── BatchFailed              INTERNAL: the worker could not run the request, or the batch that held it
"""

from typing import ClassVar

import grpc


class ServiceError(Exception):
    """Base of all errors that a caller sees."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL


class InvalidRequest(ServiceError):
    """A field of the request is not allowed.

    Attributes:
        field: Its name.
        given: Its value, or something whose repr stands for it.
        allowed: What would be allowed, in words.
    """

    status = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, given: object, allowed: str) -> None:
        text = repr(given)
        shown = text if len(text) <= 100 else f"{text[:97]}..."
        super().__init__(f"{field}: got {shown}, allowed is {allowed}")
        self.field = field
        self.given = given
        self.allowed = allowed


class DuplicateRequest(ServiceError):
    """The request id belongs to a live request."""

    status = grpc.StatusCode.ALREADY_EXISTS

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request_id: {request_id!r} belongs to a live request; choose another or leave it empty")


class Overloaded(ServiceError):
    """The class holds as many requests as it may."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, class_name: str, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"{class_name}: {limit} requests wait or run, which is the limit; retry in {retry_after_s:.1f} s"
        )
        self.retry_after_s = retry_after_s


class WorkerUnavailable(ServiceError):
    """No worker can run the request."""

    status = grpc.StatusCode.UNAVAILABLE


class BatchFailed(ServiceError):
    """The worker could not run the request, or the batch that held it."""

    status = grpc.StatusCode.INTERNAL
