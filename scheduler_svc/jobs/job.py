"""What a durable job is: its items, its states, and what becomes of each.

    job    IN_PROGRESS -> COMPLETED              its last item ended
           IN_PROGRESS -> CANCELLING -> CANCELLED
           IN_PROGRESS -> FINALIZING -> EXPIRED   its window is over; COMPLETED if what ran then ended well after all
           FAILED                                its input could not be run

    item   PENDING -> RUNNING -> SUCCEEDED | FAILED | CANCELLED | EXPIRED
                      RUNNING -> PENDING          given back; RUNNING again under another owner when its lease is over

Names of a job's states are those of OpenAI's Batch API. An item runs at least once and is recorded once: each time that
it is claimed its `attempt` grows, and what an earlier attempt writes is refused.
"""

from dataclasses import dataclass, field
from enum import Enum


class JobStatus(Enum):
    """Where a job is; the values are what is stored and what OpenAI's API says.

    VALIDATING is not used by the store, where a job comes in with its input checked.
    """

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing changes it any more."""
        return self in (JobStatus.FAILED, JobStatus.COMPLETED, JobStatus.EXPIRED, JobStatus.CANCELLED)


class ItemStatus(Enum):
    """Where an item of a job is; the values are what is stored."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class ItemKind(Enum):
    """What an item's body is, and so its result's; the values are the paths that OpenAI's API uses, and gRPC's."""

    GENERATE = "/qllm.v1.Inference/Generate"
    COMPLETION = "/v1/completions"
    CHAT_COMPLETION = "/v1/chat/completions"
    RESPONSE = "/v1/responses"


@dataclass(frozen=True, slots=True)
class NewItem:
    """One request of a new job.

    Attributes:
        custom_id: What its sender calls it; unique in the job.
        body: A serialized GenerateRequest, or JSON in UTF-8, as the job's kind says.
    """

    custom_id: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be accepted.

    Attributes:
        tenant: Whose it is; others don't see it.
        kind: What its items are.
        idempotency_key: A second job of this tenant with the same key is the first one; empty: no key.
        completion_window_s: After so many seconds what has not ended expires.
        metadata: The caller's own words.
        input_file_id: The file that its items were read from, if any.
    """

    tenant: str
    kind: ItemKind
    idempotency_key: str = ""
    completion_window_s: float = 86400.0
    metadata: dict[str, str] = field(default_factory=dict)
    input_file_id: str = ""


@dataclass(frozen=True, slots=True)
class ItemCounts:
    """How many items a job has; how many of them succeeded, and how many failed or expired."""

    total: int
    succeeded: int
    failed: int


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with one line of a job's input; lines count from 1."""

    line: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it stands. Times are seconds since 1970, on the store's clock; None: not yet."""

    job_id: str
    tenant: str
    kind: ItemKind
    status: JobStatus
    counts: ItemCounts
    metadata: dict[str, str]
    input_file_id: str
    created_at_s: float
    expires_at_s: float
    in_progress_at_s: float | None = None
    finalizing_at_s: float | None = None
    ended_at_s: float | None = None
    cancelling_at_s: float | None = None
    errors: tuple[LineError, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """The tokens that an item has so far.

    Attributes:
        logprobs: The natural logarithm of each one's probability.
        model: What computed them, so that no other model goes on from them.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An item that its claimer may run until the lease ends.

    Attributes:
        position: Its place in the job, from 0.
        attempt: Fences what is written: 1 for the first claim, one more for each further one.
        progress: What an earlier attempt had when it wrote last.
        lease_ends_at_s: On the store's clock.
        num_failures: How many earlier attempts failed for the service's own reasons.
    """

    job_id: str
    position: int
    attempt: int
    tenant: str
    kind: ItemKind
    custom_id: str
    body: bytes
    progress: Progress
    lease_ends_at_s: float
    expires_at_s: float
    num_failures: int = 0


@dataclass(frozen=True, slots=True)
class Return:
    """An item that its claimer gives back, for this or another scheduler to run again.

    Attributes:
        progress: What it has so far.
        delay_s: How long nobody may claim it.
        has_failed: Whether the attempt failed for the service's own reasons, which is counted.
        is_over_quota: Whether it waits for its tenant's tokens, and not for the service.
    """

    claim: Claim
    progress: Progress = Progress()
    delay_s: float = 0.0
    has_failed: bool = False
    is_over_quota: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemOutcome:
    """How an item ended.

    Attributes:
        status: SUCCEEDED, FAILED, CANCELLED or EXPIRED.
        body: The answer, of the job's kind; empty unless it succeeded.
        error_code: A gRPC status name such as INVALID_ARGUMENT; empty if it succeeded.
        error_message: What was wrong; empty if it succeeded.
    """

    status: ItemStatus
    body: bytes = b""
    error_code: str = ""
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """An item that has ended."""

    position: int
    custom_id: str
    outcome: ItemOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An uploaded file; `created_at_s` is in seconds since 1970."""

    file_id: str
    tenant: str
    filename: str
    purpose: str
    num_bytes: int
    created_at_s: float
