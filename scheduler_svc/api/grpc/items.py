"""Runs items whose body is a GenerateRequest: the answer is the messages of Generate, as one."""

from google.protobuf.message import DecodeError
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.deltas import joined
from scheduler_svc.api.grpc.choices import require_one_choice
from scheduler_svc.api.grpc.requests import draft_of
from scheduler_svc.api.grpc.responses import response_message
from scheduler_svc.api.jobs.items import AnswerItem, ProgressNotes, as_item, item_id, resumed
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.errors import Amount, InvalidRequest
from scheduler_svc.jobs.job import Claim


def generate_items(texts: TextGenerator) -> AnswerItem:
    """Returns what runs such items with `texts`."""

    async def answer(claim: Claim, notes: ProgressNotes) -> bytes:
        request = _request_of(claim.body)
        require_one_choice(request)
        prepared = await texts.prepare(as_item(draft_of(request), claim))
        prepared, progress = resumed(prepared, claim.progress)
        generation = texts.submit(prepared)
        notes.queued(progress)
        deltas = []
        try:
            async for delta in generation:
                notes.add(delta)
                deltas.append(delta)
        finally:
            generation.close()
        return response_message(item_id(claim), 0, joined(deltas)).SerializeToString()

    return answer


def _request_of(body: bytes) -> pb.GenerateRequest:
    try:
        request = pb.GenerateRequest.FromString(body)
    except DecodeError as error:
        raise InvalidRequest(
            "request", Amount(len(body), "bytes"), "a message of type qllm.v1.GenerateRequest"
        ) from error
    request.ClearField("request_class")  # it runs as best-effort work whatever it says
    return request
