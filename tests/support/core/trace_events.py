"""A trace that is kept in memory, to be looked at."""

from collections.abc import Mapping
from typing import Any

from scheduler_svc.timeline.events import Lane


class Events:
    """Keeps a trace's events."""

    def __init__(self) -> None:
        self.all: list[Mapping[str, Any]] = []

    def add(self, event: Mapping[str, Any]) -> None:
        self.all.append(event)

    def of(self, category: str) -> list[Mapping[str, Any]]:
        return [event for event in self.all if event["cat"] == category]

    def steps(self, lane: Lane) -> list[Mapping[str, Any]]:
        return [event for event in self.of("step") if event["tid"] is lane]
