"""Counts requests and times them, each at its first token and at its end: nothing is done for the tokens between.

A request is what the engine calls one: each choice of an answer is a request.
"""

from collections.abc import Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram

from scheduler_svc.core.state.sequence import FinishReason, RequestClass, Usage
from scheduler_svc.errors import Refusal
from scheduler_svc.metrics.labels import CLASS, CLASSES, FINISH_REASONS, PREFIX

T = TypeVar("T")
_FIRST_TOKEN_S = (
    *(0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
_QUEUE_S = (0.0005, 0.001, 0.002, 0.003, *_FIRST_TOKEN_S)
_TOKEN_S = (
    *(0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.055, 0.06, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5),
    *(0.75, 1.0, 2.0, 5.0, 10.0, 30.0),
)
_END_TO_END_S = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0),
    *(120.0, 300.0, 600.0, 1200.0, 3600.0),
)


class RequestMetrics:
    """How the requests of a service fared.

    Args:
        registry: What reads them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._first_token = self._times(
            "time_to_first_token", "Time from a request's arrival to its first token.", _FIRST_TOKEN_S
        )
        self._queue = self._times(
            "request_queue_time",
            "Time from a request's arrival until work on it began, of requests that got a first token.",
            _QUEUE_S,
        )
        self._token = self._times(
            "request_time_per_output_token",
            "Mean time from one token of a request to its next, of whole answers of more than one token.",
            _TOKEN_S,
        )
        self._end_to_end = self._times(
            "e2e_request_latency", "Time from a request's arrival to its last token, of whole answers.", _END_TO_END_S
        )
        self._ended = self._counts(
            "request_success_total",
            "Requests that ended, by reason: stop and length are whole answers, abort was the caller's wish, error was "
            "the worker's failure or loss.",
            "finished_reason",
            FINISH_REASONS,
        )
        self._refused = self._counts(
            "requests_refused_total",
            "Requests that were refused, by reason. One that does not say its class counts as ls.",
            "reason",
            {refusal: refusal.value for refusal in Refusal},
        )

        resumed = Counter(
            f"{PREFIX}requests_resumed_total",
            "Requests that went on with another worker when theirs was gone.",
            [CLASS],
            registry=registry,
        )
        self._resumed = {request_class: resumed.labels(word) for request_class, word in CLASSES.items()}

    def resumed(self, request_class: RequestClass) -> None:
        """Takes in that a request goes on with another worker."""
        self._resumed[request_class].inc()

    def first_token(self, request_class: RequestClass, usage: Usage) -> None:
        """Takes in that a request has its first token."""
        self._queue[request_class].observe(usage.queue_s)
        self._first_token[request_class].observe(usage.queue_s + usage.prefill_s)

    def ended(self, request_class: RequestClass, reason: FinishReason | None, usage: Usage) -> None:
        """Takes in that a request ended; without a reason it failed."""
        self._ended[request_class, reason].inc()
        if reason not in (FinishReason.STOP, FinishReason.LENGTH):
            return
        self._end_to_end[request_class].observe(usage.queue_s + usage.prefill_s + usage.decode_s)
        if usage.num_output_tokens > 1:
            self._token[request_class].observe(usage.decode_s / (usage.num_output_tokens - 1))

    def refused(self, request_class: RequestClass, refusal: Refusal) -> None:
        """Takes in that a request was refused."""
        self._refused[request_class, refusal].inc()

    def _times(self, name: str, help_: str, buckets_s: tuple[float, ...]) -> dict[RequestClass, Histogram]:
        histogram = Histogram(f"{PREFIX}{name}_seconds", help_, [CLASS], buckets=buckets_s, registry=self._registry)
        return {request_class: histogram.labels(word) for request_class, word in CLASSES.items()}

    def _counts(
        self, name: str, help_: str, label: str, words: Mapping[T, str]
    ) -> dict[tuple[RequestClass, T], Counter]:
        counter = Counter(PREFIX + name, help_, [CLASS, label], registry=self._registry)
        return {
            (request_class, one): counter.labels(class_word, word)
            for request_class, class_word in CLASSES.items()
            for one, word in words.items()
        }
