"""What was asked of jobs, and what was found of them in the end. Plain values, which the checker judges.

A job carries its name in its metadata, so that what came of a call whose answer was lost can be found.
"""

from dataclasses import dataclass, field

from tests.faults.records import Plan


@dataclass(slots=True, eq=False)
class JobRecord:
    """A job that a client asked for.

    Attributes:
        plans: What its items ask for.
        key: Its idempotency key; empty: none, and then it is asked for once.
        batch_ids: The ids that calls for it were answered with; none: no call was.
        refusals: Errors that nothing excuses.
    """

    name: str
    plans: tuple[Plan, ...]
    key: str = ""
    batch_ids: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FoundResult:
    """The result of an item; `error` is empty if it has an answer."""

    position: int
    custom_id: str
    token_ids: tuple[int, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job as the service says that it stands; `status` is a word of `qllm.v1.BatchStatus`."""

    batch_id: str
    name: str
    status: str
    num_items: int
    num_succeeded: int
    num_failed: int
    results: tuple[FoundResult, ...]
