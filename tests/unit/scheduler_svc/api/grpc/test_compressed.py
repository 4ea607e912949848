"""A message that is small on the wire and huge once it is unpacked costs the service nothing."""

import grpc
import pytest
from qllm.v1 import inference_pb2_grpc

from scheduler_svc.api.grpc.server import MAX_MESSAGE_BYTES
from tests.support.service.api_service import running, text_request
from tests.support.service.fakes import FakeGenerator


async def test_a_compressed_message_that_unpacks_to_more_than_the_limit_is_refused() -> None:
    generator = FakeGenerator()
    async with (
        running(generator) as service,
        grpc.aio.insecure_channel(
            service.server.address,
            options=(("grpc.max_send_message_length", -1),),
            compression=grpc.Compression.Gzip,
        ) as channel,
    ):
        bomb = text_request("a" * (16 * MAX_MESSAGE_BYTES))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in inference_pb2_grpc.InferenceServiceStub(channel).Generate(bomb, timeout=60):
                pass
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert generator.submitted == []
