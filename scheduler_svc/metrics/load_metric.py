"""What a metric of loads is: a name, and how its samples are read from the loads of a service."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.generation import ClassLoad, Loads
from scheduler_svc.metrics.labels import CLASS, CLASSES

Samples: TypeAlias = Mapping[tuple[str, ...], float]
LS, BE = CLASSES[RequestClass.LATENCY_SENSITIVE], CLASSES[RequestClass.BEST_EFFORT]


class LoadMetric(NamedTuple):
    """A metric: its labels' names, and how its samples, by their labels' values, are read from loads."""

    name: str
    help: str
    label_names: tuple[str, ...]
    read: Callable[[Loads], Samples]


def one(name: str, help_: str, read: Callable[[Loads], float]) -> LoadMetric:
    """Returns a metric of one sample."""
    return LoadMetric(name, help_, (), lambda loads: {(): read(loads)})


def by_label(name: str, help_: str, label: str, read: Callable[[Loads], Mapping[str, float]]) -> LoadMetric:
    """Returns a metric with a sample for each word of a label."""
    return LoadMetric(name, help_, (label,), lambda loads: {(word,): value for word, value in read(loads).items()})


def by_class(name: str, help_: str, read: Callable[[ClassLoad], float]) -> LoadMetric:
    """Returns a metric with a sample for each class."""
    return by_label(name, help_, CLASS, lambda loads: {LS: read(loads.latency_sensitive), BE: read(loads.best_effort)})
