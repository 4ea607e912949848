"""Serves qllm.v1.InferenceService: turns messages into drafts, and the deltas that come back into messages.

Errors leave as ServiceError and get their status from the interceptor. Knows nothing of scheduling.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from qllm.v1 import inference_pb2 as pb
from qllm.v1 import inference_pb2_grpc as pb_grpc

from scheduler_svc.api.choices.generations import begin_choices, choice_deltas
from scheduler_svc.api.grpc.choices import plan_of
from scheduler_svc.api.grpc.requests import draft_of, likely_class
from scheduler_svc.api.grpc.responses import response_message
from scheduler_svc.api.refusals import counting_refusals
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.api.validation import require_request_id
from scheduler_svc.caller import host_of_peer, set_caller
from scheduler_svc.generation import Generator
from scheduler_svc.security.grant import Permission, current_grant

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """Generate and Abort over a Generator and its text side."""

    def __init__(self, generator: Generator, texts: TextGenerator) -> None:
        self._generator = generator
        self._texts = texts

    async def Generate(self, request: pb.GenerateRequest, context: "Context") -> AsyncIterator[pb.GenerateResponse]:
        """Streams the choices of one prompt; a client that cancels, or whose deadline passes, aborts them."""
        set_caller(host_of_peer(context.peer()))
        with counting_refusals(self._generator, likely_class(request)):
            draft, plan = draft_of(request, _deadline_s(context)), plan_of(request)
        generations = await begin_choices(self._texts, draft, plan)
        del request, draft  # its prompt may be megabytes, and it may wait for long
        try:
            request_id, sequence_number = generations[0].request_id, 0
            async with aclosing(choice_deltas(plan, generations)) as deltas:
                async for choice_index, delta in deltas:
                    yield response_message(request_id, sequence_number, delta, choice_index)
                    sequence_number += 1
        finally:
            for generation in generations:
                generation.close()

    async def Abort(self, request: pb.AbortRequest, context: "Context") -> pb.AbortResponse:
        """Ends a live request of the caller's tenant; of any, where the caller may administer."""
        require_request_id(request.request_id)
        grant = current_grant()
        tenant = None if grant.may(Permission.ADMIN) else grant.tenant
        return pb.AbortResponse(aborted=self._generator.abort(request.request_id, tenant))


def _deadline_s(context: "Context") -> float | None:
    """Returns when the caller gives up, on the clock of the event loop, which is the engine's too; None: never."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else asyncio.get_running_loop().time() + remaining_s
