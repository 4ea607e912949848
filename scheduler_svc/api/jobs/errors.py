"""Errors of calls about jobs, and of items that were ended.

ServiceError
├── JobsNotKept     FAILED_PRECONDITION: the service was started without a place for jobs
├── NoSuchJob       NOT_FOUND
├── NoSuchFile      NOT_FOUND
├── KindNotServed   UNIMPLEMENTED: items of another API, which this service cannot read
└── ItemAborted     CANCELLED: somebody ended one item
"""

import grpc

from scheduler_svc.errors import ServiceError
from scheduler_svc.jobs.job import ItemKind

_MAX_SHOWN_CHARS = 100


class JobsNotKept(ServiceError):
    """The service keeps no jobs."""

    status = grpc.StatusCode.FAILED_PRECONDITION

    def __init__(self) -> None:
        super().__init__(
            "this service keeps no jobs or files: start it with --state-dir DIR, or --state-url for a database"
        )


class NoSuchJob(ServiceError):
    """The caller has no job of that id."""

    status = grpc.StatusCode.NOT_FOUND

    def __init__(self, job_id: str) -> None:
        super().__init__(f"batch_id: got {job_id[:_MAX_SHOWN_CHARS]!r}, allowed is the id of one of your jobs")


class NoSuchFile(ServiceError):
    """The caller has no file of that id."""

    status = grpc.StatusCode.NOT_FOUND

    def __init__(self, file_id: str) -> None:
        super().__init__(f"file_id: got {file_id[:_MAX_SHOWN_CHARS]!r}, allowed is the id of one of your files")


class KindNotServed(ServiceError):
    """Items of that kind can't be run here."""

    status = grpc.StatusCode.UNIMPLEMENTED

    def __init__(self, kind: ItemKind) -> None:
        super().__init__(
            f"items for {kind.value} need packages of an extra that this scheduler was installed without: qllm[http]"
        )


class ItemAborted(ServiceError):
    """Somebody ended the item's generation by its request's id."""

    status = grpc.StatusCode.CANCELLED

    def __init__(self) -> None:
        super().__init__("the item was ended by Abort while it ran")
