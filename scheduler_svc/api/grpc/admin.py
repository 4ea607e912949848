"""Serves qllm.v1.AdminService: the facts and loads of the service as they stand, and orders to hand over and to stop.

Decides nothing.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import grpc
from qllm.v1 import admin_pb2 as pb
from qllm.v1 import admin_pb2_grpc as pb_grpc

from scheduler_svc.api.entrance import Entrance
from scheduler_svc.errors import InvalidRequest, NoStandby
from scheduler_svc.generation import Generator, ServedModel, WorkerState

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

MAX_GRACE_MS = 3_600_000

_WORKER_STATES = {
    WorkerState.ABSENT: pb.WORKER_STATE_ABSENT,
    WorkerState.READY: pb.WORKER_STATE_READY,
    WorkerState.HUNG: pb.WORKER_STATE_HUNG,
}


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How the service was started; fields as in admin.proto's GetServerInfoResponse."""

    version: str
    policy: str
    preempt_at: str
    preemption_quantum_ms: float
    be_min_share: float
    max_ls_requests: int
    max_be_requests: int
    ls_ttft_ms: float
    ls_tpot_ms: float


@dataclass(frozen=True, slots=True)
class Operation:
    """What operators are told of the service, and may order.

    Attributes:
        settings: How it was started.
        stop_service: Stops it, given seconds of grace or None for its own; returns them. None: Drain is UNIMPLEMENTED.
        hand_over: Lets a worker that waits take over; returns False if none waits.
    """

    settings: ServiceSettings
    stop_service: Callable[[float | None], float] | None = None
    hand_over: Callable[[], bool] = lambda: False


class AdminServicer(pb_grpc.AdminServiceServicer):
    """GetServerInfo, GetLoads, Handover and Drain.

    Args:
        generator: What is asked.
        entrance: Knows which generations are under way.
        operation: What operators are told, and may order.
    """

    def __init__(self, generator: Generator, entrance: Entrance, operation: Operation) -> None:
        self._generator = generator
        self._entrance = entrance
        self._operation = operation

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: "Context") -> pb.GetServerInfoResponse:
        """Returns the facts; `model` is absent while no worker is connected or waited for."""
        model = self._generator.model
        return pb.GetServerInfoResponse(
            model=None if model is None else model_facts(model),
            worker_state=_WORKER_STATES[self._generator.worker_state],
            worker_epoch=self._generator.worker_epoch,
            shares_prefixes=not self._generator.no_sharing_reason,
            no_sharing_reason=self._generator.no_sharing_reason,
            **asdict(self._operation.settings),
        )

    async def GetLoads(self, request: pb.GetLoadsRequest, context: "Context") -> pb.GetLoadsResponse:
        """Returns loads and counters, and what a check of memory found if one is asked for."""
        check = await self._generator.check_integrity() if request.check else None
        loads = asdict(self._generator.loads())
        return pb.GetLoadsResponse(
            latency_sensitive=pb.ClassLoad(**loads.pop("latency_sensitive")),
            best_effort=pb.ClassLoad(**loads.pop("best_effort")),
            memory=pb.MemoryLoad(**loads.pop("memory")),
            check=None if check is None else pb.IntegrityCheck(**asdict(check)),
            **loads,
        )

    async def Handover(self, request: pb.HandoverRequest, context: "Context") -> pb.HandoverResponse:
        """Lets a worker that stands by take over; raises NoStandby."""
        if not self._operation.hand_over():
            raise NoStandby
        return pb.HandoverResponse()

    async def Drain(self, request: pb.DrainRequest, context: "Context") -> pb.DrainResponse:
        """Begins to stop the service, and returns before it has; raises InvalidRequest."""
        stop_service = self._operation.stop_service
        if stop_service is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server does not stop its service")
        if request.grace_ms > MAX_GRACE_MS:
            raise InvalidRequest("grace_ms", request.grace_ms, f"0 to {MAX_GRACE_MS}")
        grace_s = stop_service(request.grace_ms / 1e3 if request.HasField("grace_ms") else None)
        return pb.DrainResponse(grace_ms=round(grace_s * 1e3), num_requests=self._entrance.num_inside)


def model_facts(model: ServedModel) -> pb.ModelFacts:
    """Returns what an operator is told of the model."""
    return pb.ModelFacts(
        name=model.name,
        num_layers=model.core.num_layers,
        num_experts=max(model.core.experts_by_layer, default=0),
        num_experts_per_token=model.core.num_experts_per_token,
        vocab_size=model.vocab_size,
        max_model_len=model.core.max_model_len,
        block_size=model.core.block_size,
        num_blocks=model.core.num_blocks,
        num_host_blocks=model.core.num_host_blocks,
        num_disk_blocks=model.core.num_disk_blocks,
        dtype=model.dtype,
        quantization=model.quantization,
        family=model.family,
        device=model.device,
        checkpoint_dtype=model.checkpoint_dtype,
        dtype_reason=model.dtype_reason,
    )
