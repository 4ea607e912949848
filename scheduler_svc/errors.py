"""Errors that leave the service as a gRPC status.

ServiceError                 carries `status`, a message for the caller, `retry_after_s` where trying again helps, and
│                            what a refusal with it is counted as
├── InvalidRequest           INVALID_ARGUMENT: names the field, what was given and what is allowed
│   ├── UnknownField         there is no such field
│   └── MissingField         it has to be there
├── DuplicateRequest         ALREADY_EXISTS: the request id is live
├── Unauthenticated          UNAUTHENTICATED: no API key, or one that is not known
├── PermissionDenied         PERMISSION_DENIED: the key may not do that
├── Overloaded               RESOURCE_EXHAUSTED: the class's limit is reached
│   ├── WaitTooLong          its wait would be longer than such requests are to wait
│   └── TokensSpent          the tokens of live requests are as many as may be
├── QuotaExceeded            RESOURCE_EXHAUSTED: the tenant's own limit is reached
├── NoStandby                FAILED_PRECONDITION: no worker waits that could take over
├── DeadlineTooSoon          DEADLINE_EXCEEDED: not even an idle worker would meet the caller's deadline
├── ReaderTooSlow            RESOURCE_EXHAUSTED: the caller has read nothing for so long while tokens waited
├── WorkerUnavailable        UNAVAILABLE: no worker, or it went away while the request was live
├── ServiceStopping          UNAVAILABLE: the service is told to stop, and takes no new requests
└── BatchFailed              INTERNAL: the worker could not run the request, or the batch that held it
    └── WorkerKilled         each worker that ran the request alone died of it
"""

import random
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Self

import grpc

from scheduler_svc.wording import in_one_line, shown

# A killed worker is started again within half a second, and is back once it has read its model.
RETRY_S = 2.0
_MOST_JITTER = 1.5


def jittered(time_s: float) -> float:
    """Returns up to half as much again, at random: those who are refused together should not come back together."""
    return time_s * random.uniform(1, _MOST_JITTER)


class Refusal(Enum):
    """Why a request was not taken in."""

    OVERLOAD = "overload"
    WAIT = "wait"
    TOKENS = "tokens"
    DEADLINE = "deadline"
    INVALID = "invalid"
    DUPLICATE = "duplicate"
    NO_WORKER = "no_worker"
    DENIED = "denied"
    QUOTA = "quota"
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


@dataclass(frozen=True, slots=True)
class Amount:
    """A count to show in an error in place of the thing counted."""

    count: int
    unit: str

    def __repr__(self) -> str:
        unit, *rest = self.unit.split(" ")
        return " ".join((str(self.count), unit.removesuffix("s") if self.count == 1 else unit, *rest))


@dataclass(frozen=True, slots=True)
class Words:
    """Words to show in an error in place of a value."""

    text: str

    def __repr__(self) -> str:
        return self.text


NOTHING = Words("nothing")
"""What was given where a field is absent; null is something else."""


class InvalidRequest(ServiceError):
    """A field of the request is not allowed.

    Attributes:
        field: Its name.
        given: Its value, or an Amount or Words that stand for it.
        allowed: What would be allowed, in words.
    """

    status = grpc.StatusCode.INVALID_ARGUMENT
    refusal = Refusal.INVALID

    def __init__(self, field: str, given: object, allowed: str) -> None:
        super().__init__(self._sentence(field, shown(given), in_one_line(allowed)))
        self.field = field
        self.given = given
        self.allowed = allowed

    def called(self, field: str) -> Self:
        """Returns the same error with another name of the field."""
        return type(self)(field, self.given, self.allowed)

    def _sentence(self, field: str, given: str, allowed: str) -> str:
        return f"{field}: got {given}, allowed is {allowed}"


class UnknownField(InvalidRequest):
    """There is no such field; `allowed` says what was probably meant, if that is known."""

    def _sentence(self, field: str, given: str, allowed: str) -> str:
        return f"{field}: there is no such field here" + (f"; {allowed}" if allowed else "")


class MissingField(InvalidRequest):
    """A field that has to be there is not."""

    def __init__(self, field: str, given: object = NOTHING, allowed: str = "") -> None:
        super().__init__(field, given, allowed)

    def _sentence(self, field: str, given: str, allowed: str) -> str:
        return f"{field}: it is missing, and required"


class DuplicateRequest(ServiceError):
    """The request id belongs to a live request."""

    status = grpc.StatusCode.ALREADY_EXISTS
    refusal = Refusal.DUPLICATE

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request_id: {request_id!r} belongs to a live request; choose another or leave it empty")


class Unauthenticated(ServiceError):
    """The call carries no API key, or one that is not known; the message does not repeat it."""

    status = grpc.StatusCode.UNAUTHENTICATED
    refusal = Refusal.DENIED


class PermissionDenied(ServiceError):
    """The API key is known, and may not do that."""

    status = grpc.StatusCode.PERMISSION_DENIED
    refusal = Refusal.DENIED


class Overloaded(ServiceError):
    """The class holds as many requests as it may."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    refusal = Refusal.OVERLOAD

    def __init__(self, class_name: str, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"{class_name}: {limit} requests wait or run, which is the limit; retry in {retry_after_s:.1f} s"
        )
        self.retry_after_s = retry_after_s


class QuotaExceeded(ServiceError):
    """The tenant uses as much as it may."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    refusal = Refusal.QUOTA

    def __init__(self, tenant: str, limit: str, retry_after_s: float) -> None:
        super().__init__(f"quota of tenant {tenant}: allowed are {limit}; retry in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class WaitTooLong(Overloaded):
    """The request would wait too long before it is begun."""

    refusal = Refusal.WAIT

    def __init__(self, class_name: str, wait_s: float, max_wait_s: float, retry_after_s: float) -> None:
        ServiceError.__init__(
            self,
            f"{class_name}: the request would be begun in about {wait_s:.1f} s, allowed are {max_wait_s:g} s; "
            f"retry in {retry_after_s:.1f} s",
        )
        self.retry_after_s = retry_after_s


class TokensSpent(Overloaded):
    """The prompts and the longest answers of live requests have as many tokens as they may."""

    refusal = Refusal.TOKENS

    def __init__(self, class_name: str, num_tokens: int, max_tokens: int, retry_after_s: float | None) -> None:
        again = "it never fits" if retry_after_s is None else f"retry in {retry_after_s:.1f} s"
        ServiceError.__init__(
            self,
            f"{class_name}: the request's prompt and max_tokens are {num_tokens} tokens, allowed are {max_tokens} for "
            f"all live requests together; {again}",
        )
        self.retry_after_s = retry_after_s


class DeadlineTooSoon(ServiceError):
    """The request can't be answered before the caller gives up."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    refusal = Refusal.DEADLINE

    def __init__(self, left_s: float, soonest_s: float) -> None:
        super().__init__(
            f"deadline: got {max(0.0, left_s):.3f} s from now, the first token takes {soonest_s:.3f} s at the least"
        )


class ReaderTooSlow(ServiceError):
    """The caller reads nothing, so its answer is not generated any further."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"reader too slow: nothing was read for {limit_s:g} s while tokens waited")


class WorkerUnavailable(ServiceError):
    """No worker can run the request."""

    status = grpc.StatusCode.UNAVAILABLE
    refusal = Refusal.NO_WORKER

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.retry_after_s = jittered(RETRY_S)


class NoStandby(ServiceError):
    """No worker waits that could take the place of the one that serves."""

    status = grpc.StatusCode.FAILED_PRECONDITION

    def __init__(self) -> None:
        super().__init__(
            "no worker stands by: start the service with --standby 1, or another qllm-worker at its control endpoint"
        )


class ServiceStopping(ServiceError):
    """The service is told to stop; requests that run may end, new ones are refused."""

    status = grpc.StatusCode.UNAVAILABLE
    refusal = Refusal.STOPPING

    def __init__(self) -> None:
        super().__init__("the service is stopping")
        self.retry_after_s = jittered(RETRY_S)


class RulesLeaveNothing(ServiceError):
    """The request's own rules (structure, allowed tokens, bad words) leave no token to go on with."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class BatchFailed(ServiceError):
    """The worker could not run the request, or the batch that held it."""

    status = grpc.StatusCode.INTERNAL


class WorkerKilled(BatchFailed):
    """Each worker that ran the request alone died of it, so no other one is to run it."""

    def __init__(self, num_times: int) -> None:
        super().__init__(f"the worker died {num_times} times while it ran this request and no other")
