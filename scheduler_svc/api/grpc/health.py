"""Serves grpc.health.v1: SERVING exactly while a worker is ready and the service is not stopping.

    "", "ready", the name of a service  -> whether requests are served now
    "live"                              -> SERVING as long as there is an answer: to start the service anew would mend
                                           nothing while a model is loaded, a worker is replaced, or requests may end

Written here because the library's servicer holds a copy of the status, while this one reads the generator when asked:
an answer is never out of date. Watchers sleep until the generator tells of a change, so that many of them cost nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc as pb_grpc

from scheduler_svc.errors import ServiceError
from scheduler_svc.generation import Generator, WorkerState

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

READY, LIVE = "ready", "live"
# Each holds a stream and a task for as long as it likes.
MAX_WATCHES = 1024


class TooManyWatches(ServiceError):
    """As many watch already as may."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, limit: int) -> None:
        super().__init__(f"grpc.health.v1.Health/Watch: allowed are {limit} watches at a time; ask with Check")


class HealthServicer(pb_grpc.HealthServicer):
    """Check, List and Watch.

    Args:
        generator: Whose worker is looked at.
        services: Names that are answered for, besides "ready", "live" and the empty one that stands for the whole
            server.
        max_watches: Most watches at a time; more are refused.
    """

    def __init__(self, generator: Generator, services: tuple[str, ...], max_watches: int = MAX_WATCHES) -> None:
        self._generator = generator
        self._services = ("", *services, READY, LIVE)
        self._max_watches = max_watches
        self._num_watches = 0
        self._is_stopping = False
        self._changed = asyncio.Event()
        generator.on_state_change(self._tell)

    def stop(self) -> None:
        """Answers NOT_SERVING from now on, but for "live", and ends watches with it."""
        self._is_stopping = True
        self._tell()

    async def Check(self, request: pb.HealthCheckRequest, context: "Context") -> pb.HealthCheckResponse:
        """Returns the status of a service now; NOT_FOUND if there is none of that name."""
        if request.service not in self._services:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"service: allowed are {', '.join(map(repr, self._services))}"
            )
        return pb.HealthCheckResponse(status=self._status(request.service))

    async def List(self, request: Any, context: "Context") -> Any:
        """Returns the status of every service."""
        statuses = {name: pb.HealthCheckResponse(status=self._status(name)) for name in self._services}
        return pb.HealthListResponse(statuses=statuses)  # type: ignore[attr-defined]  # newer than the stubs

    async def Watch(self, request: pb.HealthCheckRequest, context: "Context") -> AsyncIterator[pb.HealthCheckResponse]:
        """Streams the status of a service now and at each change; raises TooManyWatches beyond the limit."""
        if self._num_watches >= self._max_watches:
            raise TooManyWatches(self._max_watches)
        self._num_watches += 1
        try:
            sent: int | None = None
            is_last = False
            while not is_last:
                changed, status, is_last = self._changed, self._watched(request.service), self._is_stopping
                if status != sent:
                    sent = status
                    yield pb.HealthCheckResponse(status=status)
                if not is_last:
                    await changed.wait()
        finally:
            self._num_watches -= 1

    def _tell(self) -> None:
        """Wakes all watches; those that come later wait for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _watched(self, service: str) -> int:
        return self._status(service) if service in self._services else pb.HealthCheckResponse.SERVICE_UNKNOWN

    def _status(self, service: str) -> int:
        is_ready = self._generator.worker_state is WorkerState.READY and not self._is_stopping
        return pb.HealthCheckResponse.SERVING if is_ready or service == LIVE else pb.HealthCheckResponse.NOT_SERVING
