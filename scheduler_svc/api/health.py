"""Serves grpc.health.v1: SERVING exactly while a worker is ready and the service is not stopping.

Written here because the library's servicer is told of changes, while this state is read from the generator when asked:
an answer is never out of date.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc as pb_grpc

from scheduler_svc.generation import Generator, WorkerState

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

WATCH_INTERVAL_S = 0.1


class HealthServicer(pb_grpc.HealthServicer):
    """Check, List and Watch.

    Args:
        generator: Whose worker is looked at.
        services: Names that are answered for, besides the empty one that stands for the whole server.
    """

    def __init__(self, generator: Generator, services: tuple[str, ...]) -> None:
        self._generator = generator
        self._services = ("", *services)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Answers NOT_SERVING from now on, and ends watches with it."""
        self._stopping.set()

    async def Check(self, request: pb.HealthCheckRequest, context: "Context") -> pb.HealthCheckResponse:
        """Returns the status of a service now; NOT_FOUND if there is none of that name."""
        if request.service not in self._services:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"service: allowed are {', '.join(map(repr, self._services))}"
            )
        return pb.HealthCheckResponse(status=self._status())

    async def List(self, request: Any, context: "Context") -> Any:
        """Returns the status of every service."""
        status = pb.HealthCheckResponse(status=self._status())
        statuses = dict.fromkeys(self._services, status)
        return pb.HealthListResponse(statuses=statuses)  # type: ignore[attr-defined]  # newer than the stubs

    async def Watch(self, request: pb.HealthCheckRequest, context: "Context") -> AsyncIterator[pb.HealthCheckResponse]:
        """Streams the status of a service now and at each change."""
        sent: int | None = None
        while not self._stopping.is_set() or sent != self._watched(request.service):
            status = self._watched(request.service)
            if status != sent:
                sent = status
                yield pb.HealthCheckResponse(status=status)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), WATCH_INTERVAL_S)

    def _watched(self, service: str) -> int:
        return self._status() if service in self._services else pb.HealthCheckResponse.SERVICE_UNKNOWN

    def _status(self) -> int:
        ready = self._generator.worker_state is WorkerState.READY and not self._stopping.is_set()
        return pb.HealthCheckResponse.SERVING if ready else pb.HealthCheckResponse.NOT_SERVING
