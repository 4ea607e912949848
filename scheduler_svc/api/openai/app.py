"""The HTTP application: which path does what, and how errors leave. Knows nothing of sockets."""

import time
from collections.abc import AsyncGenerator
from functools import partial
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from scheduler_svc import __version__
from scheduler_svc.api.backend import Backend
from scheduler_svc.api.openai.answer import begin_answer, error_event, new_answer_id, require_model
from scheduler_svc.api.openai.batches.batch_routes import add_batches
from scheduler_svc.api.openai.batches.file_routes import add_files
from scheduler_svc.api.openai.chat import chat_question
from scheduler_svc.api.openai.completions import completion_question
from scheduler_svc.api.openai.connections.envelope import REQUEST_ID
from scheduler_svc.api.openai.question import JsonObject, Question
from scheduler_svc.api.openai.responses.routes import add_responses
from scheduler_svc.api.openai.token_routes import add_tokens
from scheduler_svc.api.openai.wire.errors import (
    BodyUnreadable,
    error_response,
    invalid_body,
    plain_error_response,
)
from scheduler_svc.api.openai.wire.json_body import JsonRoute
from scheduler_svc.api.openai.wire.later_json import LaterJson, forget_body
from scheduler_svc.api.openai.wire.schemas import ChatCompletionRequest, CompletionRequest
from scheduler_svc.api.openai.wire.service_tier import request_class_of
from scheduler_svc.api.openai.wire.sse import EventStream
from scheduler_svc.api.refusals import counting_refusals
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.api.validation import context_tokens
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import InvalidRequest, Refusal, ServiceError, WorkerUnavailable
from scheduler_svc.generation import Generator, WorkerState
from scheduler_svc.metrics import CONTENT_TYPE

_MAX_SHOWN_CHARS = 100


def make_app(backend: Backend, comment_interval_s: float) -> FastAPI:
    """Returns the application.

    Args:
        backend: What it serves.
        comment_interval_s: Seconds after which a silent stream sends a comment.
    """
    generator, texts = backend.generator, backend.texts
    app = FastAPI(title="QLLM", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.router.route_class = JsonRoute
    _add_generation(app, generator, texts, comment_interval_s)
    _add_models(app, texts)
    _add_state(app, generator, texts)
    add_responses(app, generator, texts, comment_interval_s)
    add_tokens(app, texts)
    add_files(app, backend.jobs)
    add_batches(app, backend.jobs)
    _add_errors(app, generator)
    return app


def _add_generation(app: FastAPI, generator: Generator, texts: TextGenerator, comment_interval_s: float) -> None:
    async def answer(request: Request, question: Question) -> Response:
        ids = (new_answer_id(question), request.state.request_id)
        headers = {REQUEST_ID: ids[0]}
        forget_body(request)
        if question.stream is None:

            async def whole() -> JsonObject:
                return await (await begin_answer(texts, question, *ids)).whole()

            return LaterJson(whole, headers)

        async def begin() -> AsyncGenerator[bytes, None]:
            return (await begin_answer(texts, question, *ids)).events()

        return EventStream(begin, partial(error_event, *ids), headers, comment_interval_s)

    @app.post("/v1/completions", response_model=None)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continues prompts."""
        with counting_refusals(generator, request_class_of(body.service_tier, body.priority)):
            require_model(texts, body.model)
            question = completion_question(body)
        return await answer(request, question)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request, body: ChatCompletionRequest) -> Response:
        """Answers a conversation."""
        with counting_refusals(generator, request_class_of(body.service_tier, body.priority)):
            require_model(texts, body.model)
            question = chat_question(body)
        return await answer(request, question)


def _add_models(app: FastAPI, texts: TextGenerator) -> None:
    created = int(time.time())

    def served_model(name: str) -> JsonObject:
        model = texts.connected_model()
        facts = {"id": name, "object": "model", "created": created, "owned_by": "qllm"}
        return {**facts, "max_model_len": context_tokens(model)}

    @app.get("/v1/models")
    async def models() -> JsonObject:
        """Lists the one model that is served, under each of its names."""
        return {"object": "list", "data": [served_model(name) for name in texts.connected_model().names]}

    @app.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> JsonObject:
        """Describes the model of that name."""
        require_model(texts, model_id)
        return served_model(model_id)


def _add_state(app: FastAPI, generator: Generator, texts: TextGenerator) -> None:
    @app.get("/health/live")
    async def live() -> JsonObject:
        """Tells that the service runs: also while a model is loaded, or none is there, and while it stops."""
        return {"status": "ok"}

    @app.get("/health")
    @app.get("/health/ready")
    async def ready() -> JsonObject:
        """Tells whether requests are served now."""
        texts.entrance.require_open()
        if generator.worker_state is not WorkerState.READY:
            raise WorkerUnavailable(f"the worker is {generator.worker_state.name.lower()}")
        return {"status": "ok"}

    @app.get("/ping")
    async def ping() -> JsonObject:
        """Tells that the service runs."""
        return {"status": "ok"}

    @app.get("/")
    async def root() -> JsonObject:
        """Tells what this is, what it serves and where to read on."""
        model = generator.model
        return {
            "name": "QLLM",
            "version": __version__,
            "model": None if model is None else model.name,
            "worker": generator.worker_state.name.lower(),
            "api": "/openapi.json",
            "paths": sorted({route.path for route in app.routes if isinstance(route, Route)} - {"/"}),
        }

    @app.get("/version")
    async def version() -> JsonObject:
        """Tells the version of the service."""
        return {"version": __version__}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Tells the metrics in Prometheus' text format."""
        return Response(generator.metrics(), headers={"content-type": CONTENT_TYPE})


def _add_errors(app: FastAPI, generator: Generator) -> None:
    @app.exception_handler(ServiceError)
    async def refused(request: Request, error: ServiceError) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        generator.note_refused(RequestClass.LATENCY_SENSITIVE, Refusal.INVALID)
        return error_response(invalid_body(error, request.headers.get("content-type")))

    @app.exception_handler(RecursionError)  # of a body that can just be read, but not be written again
    async def too_deep(request: Request, error: RecursionError) -> Response:
        return error_response(BodyUnreadable("it is nested too deeply"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI's word for a body that could not be read
            generator.note_refused(RequestClass.LATENCY_SENSITIVE, Refusal.INVALID)
            if isinstance(error.__cause__, InvalidRequest):
                return error_response(error.__cause__)
            return error_response(
                BodyUnreadable("it is no UTF-8, nested too deeply, or has a number of too many digits")
            )
        asked = f"{request.method[:_MAX_SHOWN_CHARS]} {request.url.path[:_MAX_SHOWN_CHARS]}"
        message = f"{asked}: {error.detail}"
        return plain_error_response(error.status_code, message, error.headers)

    @app.exception_handler(Exception)  # logged further out, where it is seen after this
    async def unforeseen(request: Request, error: Exception) -> Response:
        return error_response(ServiceError("internal error"))
