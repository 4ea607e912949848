"""A real gRPC server on a free port for the scripted service."""

from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from qllm.v1 import admin_pb2_grpc, inference_pb2_grpc

from tests.unit.client.fake_service import FakeService


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    service = FakeService()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(service, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(service.health, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await service.set_serving(True)
    await server.start()
    yield service
    await server.stop(None)
