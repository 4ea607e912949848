"""Errors that leave the service as a gRPC status.

ServiceError                 carries `status`, a message for the caller, `retry_after_s` where trying again helps, and
│                            what a refusal with it is counted as
├── InvalidRequest           INVALID_ARGUMENT: names the field, what was given and what is allowed
├── DuplicateRequest         ALREADY_EXISTS: the request id is live
├── Overloaded               RESOURCE_EXHAUSTED: the class's limit is reached
├── WorkerUnavailable        UNAVAILABLE: no worker, or it went away while the request was live
├── ServiceStopping          UNAVAILABLE: the service is told to stop, and takes no new requests
└── BatchFailed              INTERNAL: the worker could not run the request, or the batch that held it
"""

import random
from enum import Enum
from typing import ClassVar

import grpc

# A killed worker is started again within half a second, and is back once it has read its model.
RETRY_S = 2.0
_MOST_JITTER = 1.5


def jittered(time_s: float) -> float:
    """Returns up to half as much again, at random: those who are refused together should not come back together."""
    return time_s * random.uniform(1, _MOST_JITTER)


class Refusal(Enum):
    """Why a request was not taken in."""

    OVERLOAD = "overload"
    INVALID = "invalid"
    DUPLICATE = "duplicate"
    NO_WORKER = "no_worker"
    STOPPING = "stopping"
    OTHER = "other"


class ServiceError(Exception):
    """Base of all errors that a caller sees.

    Attributes:
        retry_after_s: Seconds after which the same request may succeed; None where that is not to be expected.
    """

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    refusal: ClassVar[Refusal] = Refusal.OTHER
    retry_after_s: float | None = None


class InvalidRequest(ServiceError):
    """A field of the request is not allowed.

    Attributes:
        field: Its name.
        given: Its value, or something whose repr stands for it.
        allowed: What would be allowed, in words.
    """

    status = grpc.StatusCode.INVALID_ARGUMENT
    refusal = Refusal.INVALID

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
    refusal = Refusal.DUPLICATE

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request_id: {request_id!r} belongs to a live request; choose another or leave it empty")


class Overloaded(ServiceError):
    """The class holds as many requests as it may."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    refusal = Refusal.OVERLOAD

    def __init__(self, class_name: str, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"{class_name}: {limit} requests wait or run, which is the limit; retry in {retry_after_s:.1f} s"
        )
        self.retry_after_s = retry_after_s


class WorkerUnavailable(ServiceError):
    """No worker can run the request."""

    status = grpc.StatusCode.UNAVAILABLE
    refusal = Refusal.NO_WORKER

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.retry_after_s = jittered(RETRY_S)


class ServiceStopping(ServiceError):
    """The service is told to stop; requests that run may end, new ones are refused."""

    status = grpc.StatusCode.UNAVAILABLE
    refusal = Refusal.STOPPING

    def __init__(self) -> None:
        super().__init__("the service is stopping")
        self.retry_after_s = jittered(RETRY_S)


class BatchFailed(ServiceError):
    """The worker could not run the request, or the batch that held it."""

    status = grpc.StatusCode.INTERNAL
