"""The requests that wait or run: by the core's id and by the caller's, and so many of each class at a time.

Whoever watches requests come and go hears of it from here: the timeline and the metrics. Knows no worker.
"""

from collections import abc
from collections.abc import Callable
from dataclasses import dataclass

from scheduler_svc.core.forecast import Forecast
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, Sequence, SequenceState
from scheduler_svc.errors import DuplicateRequest
from scheduler_svc.generation import GenerationRequest
from scheduler_svc.metrics import Metrics
from scheduler_svc.serving.admission import ClassAdmission, ClassLimits, require_deadline
from scheduler_svc.serving.token_stream import BufferedTokenStream
from scheduler_svc.timeline import Timeline


@dataclass(slots=True)
class LiveRequest:
    """A live request; `has_token` once it has its first token."""

    request: GenerationRequest
    sequence: Sequence
    stream: BufferedTokenStream
    has_token: bool = False

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """All sequences that run for it."""
        return self.sequence.kin.own(self.sequence)


class LiveRequests:
    """The live requests of a service.

    Args:
        limits: What each class may have.
        now_s: Gives the time.
        metrics: Counts and times them.
        timeline: Records them, if anything does.
    """

    def __init__(
        self,
        limits: dict[RequestClass, ClassLimits],
        now_s: Callable[[], float],
        metrics: Metrics,
        timeline: Timeline | None,
    ) -> None:
        self._admission = {one: ClassAdmission(one, limit) for one, limit in limits.items()}
        self._now_s = now_s
        self._metrics = metrics
        self._timeline = timeline
        self._live: dict[SeqId, LiveRequest] = {}
        # And by tenant: each has names of its own. Choices of one prompt share theirs.
        self._by_request_id: dict[str, dict[str, list[SeqId]]] = {}

    def __len__(self) -> int:
        return len(self._live)

    @property
    def num_by_class(self) -> dict[RequestClass, int]:
        """How many of each class are live."""
        return {one: admission.num_live for one, admission in self._admission.items()}

    def all(self) -> tuple[LiveRequest, ...]:
        """Returns all, in the order in which they came."""
        return tuple(self._live.values())

    def get(self, seq_id: SeqId) -> LiveRequest | None:
        """Returns a live request; None if there is none of that id."""
        return self._live.get(seq_id)

    def find(self, request_id: str, tenant: str | None) -> tuple[SeqId, ...]:
        """Returns the core's ids of what is called so by the tenant, or by anybody if that is None."""
        by_tenant = self._by_request_id.get(request_id, {})
        own = (seq_ids for owner, seq_ids in by_tenant.items() if tenant is None or owner == tenant)
        return tuple(seq_id for seq_ids in own for seq_id in seq_ids)

    def admit(self, requests: abc.Sequence[GenerationRequest], forecast: Forecast) -> None:
        """Counts requests in that differ in seed and id alone, all or none; they must be added next.

        Raises:
            DuplicateRequest, DeadlineTooSoon, Overloaded: They were refused, and nothing was counted.
        """
        for request in requests:
            if self.find(request.request_id, request.tenant):
                raise DuplicateRequest(request.request_id)
        first, num_tokens = requests[0], sum(request.most_tokens for request in requests)
        require_deadline(first.deadline_s, self._now_s(), forecast.soonest_s)
        self._admission[first.request_class].enter(num_tokens, forecast.begins_s, len(requests))

    def add(self, live: LiveRequest) -> None:
        """Adds a request that was admitted."""
        self._live[live.sequence.seq_id] = live
        by_tenant = self._by_request_id.setdefault(live.request.request_id, {})
        by_tenant.setdefault(live.request.tenant, []).append(live.sequence.seq_id)
        if self._timeline is not None:
            self._timeline.request_arrived(live.sequence)

    def note_first_token(self, live: LiveRequest) -> None:
        """Takes in that a request has its first token."""
        live.has_token = True
        self._metrics.requests.first_token(live.request.request_class, live.sequence.usage(self._now_s()))

    def leave(self, seq_id: SeqId, reason: FinishReason | None) -> None:
        """Counts a live request out, which ended; without a reason it failed."""
        live, now_s = self._live.pop(seq_id), self._now_s()
        live.sequence.state = SequenceState.FINISHED  # where no worker is, no core says so
        self._forget_name(live.request, seq_id)
        self._admission[live.request.request_class].leave(live.request.most_tokens, now_s)
        self._metrics.requests.ended(live.request.request_class, reason, live.sequence.usage(now_s))
        if self._timeline is not None:
            self._timeline.request_ended(live.sequence, now_s)

    def _forget_name(self, request: GenerationRequest, seq_id: SeqId) -> None:
        by_tenant = self._by_request_id[request.request_id]
        by_tenant[request.tenant].remove(seq_id)
        if not by_tenant[request.tenant]:
            del by_tenant[request.tenant]
        if not by_tenant:
            del self._by_request_id[request.request_id]
