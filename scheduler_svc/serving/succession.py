"""What requests go through when their worker is lost and another one comes.

    worker died ──▶ whom it ran is noted ──▶ nothing is computed of anybody ──▶ another joins: all begin there again,
                       └── to blame: it ends        └── in vain too often: all end      └── no room for one: it ends

So each of them ends within a bounded time: one that kills its worker by itself, and all where workers die whatever they
run. Ends nobody: says who is to end, and why.
"""

from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import ServiceError, WorkerKilled, WorkerUnavailable
from scheduler_svc.generation import GenerationRequest, ServedModel
from scheduler_svc.serving.live_requests import LiveRequest, LiveRequests

LS = RequestClass.LATENCY_SENSITIVE
# So many workers in a row may die before they have answered anything: then it is not the requests. One that kills its
# worker takes three, at one of which it was not alone, and a second one such takes two more.
MOST_IN_VAIN = 6


class Succession:
    """That of the workers of one service.

    Args:
        live: The requests that outlive them.
    """

    def __init__(self, live: LiveRequests) -> None:
        self._live = live
        self._model: ServedModel | None = None
        self._num_in_vain = 0

    @property
    def is_in_vain(self) -> bool:
        """Whether workers die one after the other, whatever they run."""
        return self._num_in_vain >= MOST_IN_VAIN

    def answered(self) -> None:
        """Takes in that a worker did something."""
        self._num_in_vain = 0

    def lost(self, core: Scheduler | None, *, died: bool) -> list[tuple[LiveRequest, ServiceError]]:
        """Takes in that the worker is gone; returns the requests that are to blame for that, and so end."""
        if core is not None and died:
            self._num_in_vain += core.worker_died()
        guilty: list[tuple[LiveRequest, ServiceError]] = []
        for live in self._live.all():
            for sequence in live.sequences:
                sequence.lose_worker()
            if killers := [sequence for sequence in live.sequences if sequence.kills_workers]:
                guilty.append((live, WorkerKilled(killers[0].num_deaths_alone)))
        return guilty

    def next(self, model: ServedModel) -> list[tuple[LiveRequest, ServiceError | None]]:
        """Takes in that another worker is there; returns who goes on with it, latency-sensitive ones first.

        And why one can't, with each.
        """
        last, self._model = self._model, model
        waiting = sorted(self._live.all(), key=lambda live: live.request.request_class is not LS)
        return [(live, _why_not(live.request, model, last)) for live in waiting]


def _why_not(request: GenerationRequest, model: ServedModel, last: ServedModel | None) -> ServiceError | None:
    """Says why a request can't go on with a worker's model; None if it can."""
    if last is not None and (model.name, model.tokenizer_json, model.vocab_size) != (
        last.name,
        last.tokenizer_json,
        last.vocab_size,
    ):
        return WorkerUnavailable(f"the new worker serves another model, {model.name}; send the request again")
    num_tokens, most = len(request.prompt_token_ids) + request.stop.max_tokens, model.core.max_sequence_tokens
    if num_tokens > most:
        return WorkerUnavailable(f"the new worker has room for {most} tokens; the request may need {num_tokens}")
    return None
