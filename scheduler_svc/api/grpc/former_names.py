"""Answers calls of services by the names that they had first, for scripts that know those.

    /qllm.v1.Inference/Generate is /qllm.v1.InferenceService/Generate

The protos still have the former services, deprecated, so that stubs and reflection know them. Here they get the methods
of today's, and whoever keeps rules for methods asks here which one is meant.
"""

from typing import Any, cast

import grpc
from qllm.v1 import admin_pb2_grpc, batches_pb2_grpc, inference_pb2_grpc

_FORMER = {
    "qllm.v1.Inference": "qllm.v1.InferenceService",
    "qllm.v1.Admin": "qllm.v1.AdminService",
    "qllm.v1.Batches": "qllm.v1.BatchesService",
}
FORMER_SERVICE_NAMES = tuple(_FORMER)


def current_method(method: str) -> str:
    """Returns a method, given as /SERVICE/METHOD, by the name of today."""
    service, _, name = method.removeprefix("/").rpartition("/")
    return f"/{_FORMER.get(service, service)}/{name}"


def add_former_services(
    server: grpc.aio.Server,
    inference: inference_pb2_grpc.InferenceServiceServicer,
    admin: admin_pb2_grpc.AdminServiceServicer,
    batches: batches_pb2_grpc.BatchesServiceServicer,
) -> None:
    """Lets a server answer by the former names, too."""
    inference_pb2_grpc.add_InferenceServicer_to_server(cast(Any, inference), server)
    admin_pb2_grpc.add_AdminServicer_to_server(cast(Any, admin), server)
    batches_pb2_grpc.add_BatchesServicer_to_server(cast(Any, batches), server)
