"""The page that Prometheus reads, of all metrics of a service."""

from collections.abc import Iterator

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from scheduler_svc.generation import Loads
from scheduler_svc.metrics.item_metrics import ItemMetrics
from scheduler_svc.metrics.load_metrics import LoadMetrics
from scheduler_svc.metrics.request_metrics import RequestMetrics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """All metrics of a service.

    Attributes:
        requests: What front ends and engine tell of requests.
        items: What is told of items of durable jobs.
    """

    def __init__(self) -> None:
        # A further series beside each, for which Prometheus' text format has no use.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self.requests = RequestMetrics(self._registry)
        self.items = ItemMetrics(self._registry)
        self._loads = LoadMetrics()

    def worker_lost(self, last: Loads) -> None:
        """Takes in the last loads of a worker that is gone."""
        self._loads.worker_lost(last)

    def page(self, loads: Loads, *, worker_is_ready: bool) -> bytes:
        """Returns the metrics as they stand, given the loads now."""
        families = self._loads.families(loads, worker_is_ready=worker_is_ready)
        return generate_latest(self._registry) + generate_latest(_Once(families))


class _Once(Collector):
    """Families to be read once."""

    def __init__(self, families: Iterator[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yields them."""
        return self._families
