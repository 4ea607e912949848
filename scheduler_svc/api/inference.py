"""Serves qllm.v1.Inference: validates a request, hands it to the generator, and streams what comes back.

Errors leave as ServiceError and get their status from the interceptor. Knows nothing of scheduling.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qllm.v1 import inference_pb2 as pb
from qllm.v1 import inference_pb2_grpc as pb_grpc

from scheduler_svc.api.prompt import prompt_token_ids
from scheduler_svc.api.responses import ResponseBuilder
from scheduler_svc.api.validation import (
    context_tokens,
    require_request_id,
    valid_request_class,
    valid_request_id,
    valid_sampling,
    valid_stop,
    valid_stop_strings,
)
from scheduler_svc.detokenizer import TextAssembler
from scheduler_svc.errors import WorkerUnavailable
from scheduler_svc.generation import GenerationRequest, Generator, ServedModel
from scheduler_svc.model_text import ModelText, ModelTextCache
from scheduler_svc.text_threads import TextThreads

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request that may be submitted, and what its stream needs."""

    generation: GenerationRequest
    builder: ResponseBuilder


class InferenceServicer(pb_grpc.InferenceServicer):
    """Generate and Abort over a Generator."""

    def __init__(self, generator: Generator, texts: ModelTextCache, threads: TextThreads) -> None:
        self._generator = generator
        self._texts = texts
        self._threads = threads

    async def Generate(self, request: pb.GenerateRequest, context: "Context") -> AsyncIterator[pb.GenerateResponse]:
        """Streams one generation; a client that cancels, or whose deadline passes, aborts it."""
        model = self._connected_model()
        prepared = await self._prepare(request, model, await self._texts.of(model))
        if self._generator.model != model:
            raise WorkerUnavailable("the model was changed while the prompt was tokenized; send the request again")
        stream = self._generator.submit(prepared.generation)
        try:
            async for event in stream:
                response = prepared.builder.step(event, stream.usage())
                if response.HasField("finish"):
                    stream.close()  # a stop string ends work that would go on while the last message is written
                yield response
                if response.HasField("finish"):
                    return
            raise RuntimeError(f"{prepared.generation.request_id}: the token stream ended without a finish reason")
        finally:
            stream.close()

    async def Abort(self, request: pb.AbortRequest, context: "Context") -> pb.AbortResponse:
        """Ends a live request."""
        require_request_id(request.request_id)
        return pb.AbortResponse(aborted=self._generator.abort(request.request_id))

    def _connected_model(self) -> ServedModel:
        model = self._generator.model
        if model is None:
            raise WorkerUnavailable("no worker is connected, so no model is served; try again later")
        return model

    async def _prepare(self, request: pb.GenerateRequest, model: ServedModel, text: ModelText) -> _Prepared:
        """Validates the request; what is cheap to refuse is refused before the prompt is tokenized."""
        request_id = valid_request_id(request.request_id)
        request_class = valid_request_class(request.request_class)
        sampling = valid_sampling(request.sampling, model.vocab_size)
        requested_stop = valid_stop(request.stop, model)
        has_tokenizer = text.tokenizer is not None
        stop_strings = valid_stop_strings(request.stop.stop_strings, has_tokenizer=has_tokenizer)
        token_ids = await prompt_token_ids(request, request_class, model, text, self._threads)
        stop = requested_stop.conditions(len(token_ids), context_tokens(model))
        return _Prepared(
            generation=GenerationRequest(request_id, request_class, token_ids, sampling, stop),
            builder=ResponseBuilder(
                request_id, TextAssembler(text.tokenizer, token_ids, stop_strings, stop.min_tokens)
            ),
        )
