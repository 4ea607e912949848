"""An item that runs here: how far it is, and what becomes of it when it can't be computed."""

import logging
from collections.abc import Callable

import grpc

from scheduler_svc.caller import set_tenant
from scheduler_svc.errors import RETRY_S, QuotaExceeded, ServiceError, WorkerKilled, jittered
from scheduler_svc.jobs.item_worker import ItemWorker
from scheduler_svc.jobs.job import Claim, ItemOutcome, ItemStatus, Progress, Return

_log = logging.getLogger(__name__)

MOST_FAILURES = 3

# The service is busy or not there, or the item's own earlier attempt still lives: the item is not to blame.
_IN_THE_WAY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
)
_FAILURES = ("INTERNAL", "UNKNOWN", "DATA_LOSS")  # the service's own; another attempt may do better


class RunningItem:
    """One attempt at an item.

    Args:
        claim: The item.
        began_s: When the attempt began.
        on_queued: Called once it is queued.

    Attributes:
        is_queued: Whether it counts in the engine's work by now.
        progress: What it has so far.
    """

    def __init__(self, claim: Claim, began_s: float, on_queued: Callable[[], None]) -> None:
        self.claim = claim
        self.began_s = began_s
        self.is_queued = False
        self.progress = claim.progress
        self._on_queued = on_queued

    def note(self, progress: Progress) -> None:
        """Takes in what it has, which it was queued for."""
        self.progress = progress
        if not self.is_queued:
            self.is_queued = True
            self._on_queued()

    async def run(self, worker: ItemWorker) -> ItemOutcome | Return:
        """Has it computed; returns how it ended, or how it is to be given back."""
        set_tenant(self.claim.tenant)
        try:
            outcome = await worker.run(self.claim, self.note)
        except WorkerKilled as error:  # no other worker is to die of it
            return _failed(error.status, str(error))
        except ServiceError as error:
            if error.status in _IN_THE_WAY or error.retry_after_s is not None:
                return self._later(error)
            outcome = _failed(error.status, str(error))
        except Exception:
            _log.exception("item_failed job_id=%s position=%d", self.claim.job_id, self.claim.position)
            outcome = _failed(grpc.StatusCode.INTERNAL, "internal error")
        if outcome.status is ItemStatus.FAILED and outcome.error_code in _FAILURES:
            return self._after_failure(outcome)
        return outcome

    def _later(self, error: ServiceError) -> Return:
        delay_s = jittered(RETRY_S) if error.retry_after_s is None else error.retry_after_s
        return Return(self.claim, self.progress, delay_s, is_over_quota=isinstance(error, QuotaExceeded))

    def _after_failure(self, outcome: ItemOutcome) -> ItemOutcome | Return:
        """Has it tried again, each time later, unless it failed too often."""
        num_before = self.claim.num_failures
        if num_before >= MOST_FAILURES:
            return outcome
        delay_s = jittered(2.0**num_before)
        _log.warning(
            "item_failed job_id=%s position=%d num_failures=%d retry_s=%.1f reason=%r",
            self.claim.job_id,
            self.claim.position,
            num_before + 1,
            delay_s,
            outcome.error_message,
        )
        return Return(self.claim, self.progress, delay_s, has_failed=True)


def _failed(status: grpc.StatusCode, message: str) -> ItemOutcome:
    return ItemOutcome(status=ItemStatus.FAILED, error_code=status.name, error_message=message)
