"""Every bad input gets its clear status from the real service, which goes on serving."""

import asyncio
from typing import Protocol

import grpc
import pytest
from qllm.v1 import admin_pb2, inference_pb2_grpc
from qllm.v1 import inference_pb2 as pb

from tests.support.service.bad_input_cases import ALL_CASES, BAD_INPUT_CASES, GENERATE, Case, context, send


class LiveService(Protocol):
    """A running service, from conftest."""

    grpc_address: str
    model_facts: admin_pb2.ModelFacts


OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0))
GOOD = pb.GenerateRequest(text="def", sampling=pb.SamplingParams(temperature=0), stop=pb.StopConditions(max_tokens=2))


async def assert_serves(channel: grpc.aio.Channel) -> None:
    answer = await send(channel, GENERATE, GOOD.SerializeToString())
    assert answer.status is grpc.StatusCode.OK, answer.details
    assert pb.GenerateResponse.FromString(answer.responses[-1]).HasField("finish")


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
async def test_input_gets_its_status(live_service: LiveService, case: Case) -> None:
    async with grpc.aio.insecure_channel(live_service.grpc_address, options=OPTIONS) as channel:
        answer = await send(channel, case.method, case.build(live_service.model_facts))
        assert answer.status is case.status, answer.details
        assert all(word.lower() in answer.details.lower() for word in case.words), answer.details


async def test_service_goes_on_serving_after_all_bad_inputs_at_once(live_service: LiveService) -> None:
    async with grpc.aio.insecure_channel(live_service.grpc_address, options=OPTIONS) as channel:
        facts = live_service.model_facts
        answers = await asyncio.gather(*(send(channel, case.method, case.build(facts)) for case in BAD_INPUT_CASES))
        assert [answer.status for answer in answers] == [case.status for case in BAD_INPUT_CASES]
        await assert_serves(channel)


async def test_id_of_a_live_request_is_refused(live_service: LiveService) -> None:
    room = context(live_service.model_facts) - 1
    request = pb.GenerateRequest(
        request_id="twice", token_ids=pb.TokenIds(ids=[5]), stop=pb.StopConditions(max_tokens=room, ignore_eos=True)
    )
    async with grpc.aio.insecure_channel(live_service.grpc_address, options=OPTIONS) as channel:
        inference = inference_pb2_grpc.InferenceServiceStub(channel)
        first = inference.Generate(request)
        await first.read()
        answer = await send(channel, GENERATE, request.SerializeToString())
        assert answer.status is grpc.StatusCode.ALREADY_EXISTS
        assert "request_id: 'twice'" in answer.details
        aborted = await inference.Abort(pb.AbortRequest(request_id="twice"))
        assert aborted.aborted
        while not (last := await first.read()).HasField("finish"):
            pass
        assert last.finish.reason == pb.FINISH_REASON_ABORTED
        await assert_serves(channel)
