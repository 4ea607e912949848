"""A policy that joins whatever it can, which the default one does where all of it is in time."""

from collections.abc import Iterator

from scheduler_svc.core.policies import BatchPlan, Policy, View
from scheduler_svc.core.policies.base import Choice
from scheduler_svc.core.state.batch import Batch
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL, LS_DECODE, LS_PREFILL
from tests.support.core.simulation import BE, LS


class Joining(Policy):
    """Runs latency-sensitive work at once, and takes along whatever stands on its way."""

    name = "joining"

    def preferences(self, view: View) -> Iterator[Choice]:
        if batch := view.open_batch(LS):
            yield batch
        elif not view.awaits_result(LS):
            yield BatchPlan((LS_DECODE, LS_PREFILL), 32)
            yield from self.best_effort(view, lambda _: BatchPlan((BE_DECODE, BE_PREFILL), 32))

    def companions(self, view: View, batch: Batch) -> Iterator[Batch]:
        other = view.open_batch(BE)
        if batch.request_class is LS and other is not None and other.is_suspended and other.issued >= batch.issued:
            yield other
