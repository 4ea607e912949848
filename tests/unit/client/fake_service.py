"""A service that is a script: it sends the tokens, or the failure, that a test asks for."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2
from qllm.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc

Context = grpc.aio.ServicerContext

MIB = 1 << 20
MEMORY = admin_pb2.MemoryLoad(
    total_bytes=64 * MIB,
    free_bytes=8 * MIB,
    latency_sensitive_bytes=4 * MIB,
    best_effort_bytes=36 * MIB,
    prefix_bytes=12 * MIB,
    session_bytes=4 * MIB,
    state_bytes=MIB // 2,
    suspended_bytes=1 << 21,
    suspended_tokens=64,
    host_bytes=3 * MIB,
    host_total_bytes=32 * MIB,
    fragmentation=0.25,
    num_prompt_tokens=2000,
    num_cached_tokens=1500,
    num_offloads=3,
    num_offloaded_blocks=21,
    offload_ns=4_500_000,
    num_drops=2,
    num_recomputed_tokens=1100,
    num_session_hits=3,
    num_session_misses=1,
    num_kept_sessions=5,
)
AT_REST = admin_pb2.MemoryLoad(
    total_bytes=64 * MIB, free_bytes=48 * MIB, prefix_bytes=12 * MIB, session_bytes=4 * MIB, num_offloads=3
)


class FakeService(inference_pb2_grpc.InferenceServiceServicer, admin_pb2_grpc.AdminServiceServicer):
    """Streams `max_tokens` tokens, one every `step_s`, counting from the sum of the prompt's ids; the text may ask
    for a failure instead.
    """

    def __init__(self) -> None:
        self.requests: list[inference_pb2.GenerateRequest] = []
        self.authorizations: list[str | bytes | None] = []
        self.num_live = 0
        self.max_live = 0
        self.received = asyncio.Event()
        self.cancelled = asyncio.Semaphore(0)
        self.step_s = 0.001
        self.aborted_ids: list[str] = []
        self.problems: list[str] = []
        self.graces_ms: list[int | None] = []
        self.makes_checks = True
        self.refuses_sessions = False
        self.memory = MEMORY
        self.health = health.aio.HealthServicer()
        self.address = ""

    async def Generate(self, request: Any, context: Context) -> AsyncIterator[inference_pb2.GenerateResponse]:
        self.requests.append(request)
        self.authorizations.append(dict(context.invocation_metadata() or ()).get("authorization"))
        self.received.set()
        self.num_live += 1
        self.max_live = max(self.max_live, self.num_live)
        is_done = False
        try:
            await _fail_if_asked(request.text or _last_turn(request), context)
            if self.refuses_sessions and request.HasField("session"):
                await context.abort(grpc.StatusCode.INTERNAL, "no sessions here")
            if request.HasField("beam_search"):
                yield _found(request)
            for step in range(0 if request.HasField("beam_search") else request.stop.max_tokens):
                await asyncio.sleep(self.step_s)
                yield _step(request, step)
            is_done = True
        finally:
            self.num_live -= 1
            if not is_done:
                self.cancelled.release()

    async def Abort(self, request: Any, context: Context) -> inference_pb2.AbortResponse:
        self.aborted_ids.append(request.request_id)
        return inference_pb2.AbortResponse(aborted=request.request_id == "live")

    async def GetServerInfo(self, request: Any, context: Context) -> admin_pb2.GetServerInfoResponse:
        model = admin_pb2.ModelFacts(name="fake", num_layers=3, block_size=16, num_blocks=64)
        return admin_pb2.GetServerInfoResponse(
            version="9.9",
            policy="qllm",
            model=model,
            worker_state=admin_pb2.WORKER_STATE_READY,
            ls_ttft_ms=2500,
            ls_tpot_ms=16.7,
            no_sharing_reason="--no-prefix-caching",
        )

    async def GetLoads(self, request: Any, context: Context) -> admin_pb2.GetLoadsResponse:
        found = admin_pb2.IntegrityCheck(problems=self.problems, num_held_blocks=1234, num_sequences=7)
        promised = admin_pb2.ClassLoad(num_first_tokens=2000, num_first_tokens_in_time=1993, predicted_wait_ms=250)
        memory = admin_pb2.MemoryLoad()
        memory.CopyFrom(self.memory)
        memory.num_offloads += len(self.requests)
        return admin_pb2.GetLoadsResponse(
            latency_sensitive=promised,
            best_effort=admin_pb2.ClassLoad(running=self.num_live),
            num_preemptions_at_expert=7,
            busy_ns=2**53 + 1,
            total_blocks=64,
            free_blocks=64 - self.num_live,
            memory=memory,
            check=found if request.check and self.makes_checks else None,
        )

    async def Handover(self, request: Any, context: Context) -> admin_pb2.HandoverResponse:
        """Nobody stands by."""
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no worker stands by")
        raise AssertionError

    async def Drain(self, request: Any, context: Context) -> admin_pb2.DrainResponse:
        self.graces_ms.append(request.grace_ms if request.HasField("grace_ms") else None)
        return admin_pb2.DrainResponse(grace_ms=request.grace_ms or 2000, num_requests=1)

    async def set_serving(self, is_serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self.health.set("", status.SERVING if is_serving else status.NOT_SERVING)


def _found(request: Any) -> inference_pb2.GenerateResponse:
    """What a search found: as many texts as it asks for."""
    texts = [
        inference_pb2.Hypothesis(
            text=f"text {place}",
            token_ids=[place, 9],
            logprobs=[-0.5, -0.25],
            score=-place - 0.5,
            reason=inference_pb2.FINISH_REASON_LENGTH,
        )
        for place in range(request.beam_search.num_returned or 1)
    ]
    best, finish = texts[0], inference_pb2.Finish(reason=inference_pb2.FINISH_REASON_LENGTH)
    told = {"text": best.text, "token_ids": best.token_ids, "logprobs": best.logprobs}
    return inference_pb2.GenerateResponse(request_id="made", hypotheses=texts, finish=finish, **told)


def _last_turn(request: inference_pb2.GenerateRequest) -> str:
    return request.chat.messages[-1].content if request.chat.messages else ""


def _step(request: inference_pb2.GenerateRequest, step: int) -> inference_pb2.GenerateResponse:
    response = inference_pb2.GenerateResponse(
        request_id=request.request_id or "made-by-server",
        sequence_number=step,
        text=f"{step} ",
        token_ids=[step + sum(request.token_ids.ids)],
        logprobs=[-0.5],
        reasoning="hm" if _last_turn(request) == "think" and step == 0 else "",
    )
    if step == request.stop.max_tokens - 1:
        response.finish.reason = inference_pb2.FINISH_REASON_LENGTH
        response.finish.usage.completion_tokens = step + 1
        response.finish.usage.num_preemptions = 4
        response.finish.usage.cached_tokens = 3
    return response


async def _fail_if_asked(text: str, context: Context) -> None:
    if text.startswith("fail "):
        await context.abort(getattr(grpc.StatusCode, text.removeprefix("fail ")), "because it was asked to")
    if text == "overload":
        info = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=250_000_000))
        packed = any_pb2.Any()
        packed.Pack(info)
        status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="full", details=[packed])
        metadata = (("grpc-status-details-bin", status.SerializeToString()), ("grpc-retry-pushback-ms", "900"))
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", metadata)
    if text == "pushback":
        metadata = (("grpc-retry-pushback-ms", "900"),)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", metadata)
