"""Counts the items of durable jobs that ended here."""

from prometheus_client import CollectorRegistry, Counter

from scheduler_svc.metrics.labels import PREFIX

_STATUSES = ("succeeded", "failed", "cancelled", "expired")


class ItemMetrics:
    """How the items fared whose outcome this scheduler recorded.

    Args:
        registry: What reads them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = Counter(
            f"{PREFIX}batch_items_total",
            "Items of durable jobs whose outcome this scheduler recorded, by how they ended.",
            ["status"],
            registry=registry,
        )
        self._ended = {status: counter.labels(status) for status in _STATUSES}

    def ended(self, status: str, number: int) -> None:
        """Takes in that outcomes of items were recorded."""
        self._ended[status].inc(number)
