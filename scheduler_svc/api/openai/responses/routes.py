"""The path /v1/responses."""

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import FastAPI, Request
from fastapi.responses import Response

from scheduler_svc.api.openai.answer import Answer, begin_answer, require_model, told_error
from scheduler_svc.api.openai.connections.envelope import REQUEST_ID
from scheduler_svc.api.openai.question import JsonObject, Question
from scheduler_svc.api.openai.responses.request import response_question
from scheduler_svc.api.openai.responses.response import RESPONSE_ID_PREFIX, ResponseWriter, echo
from scheduler_svc.api.openai.responses.schema import ResponsesRequest
from scheduler_svc.api.openai.wire.field_names import FieldNames
from scheduler_svc.api.openai.wire.later_json import LaterJson, forget_body
from scheduler_svc.api.openai.wire.service_tier import request_class_of
from scheduler_svc.api.openai.wire.sse import EventStream
from scheduler_svc.api.refusals import counting_refusals
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.generation import Generator


def add_responses(app: FastAPI, generator: Generator, texts: TextGenerator, comment_interval_s: float) -> None:
    """Adds the path."""

    @app.post("/v1/responses", response_model=None)
    async def responses(request: Request, body: ResponsesRequest) -> Response:
        """Answers a text or a conversation, as a response of items. Nothing is stored."""
        with counting_refusals(generator, request_class_of(body.service_tier, body.priority)):
            require_model(texts, body.model)
            question, names = response_question(body)
        response_id = f"{RESPONSE_ID_PREFIX}{uuid.uuid4().hex}"
        hides_thoughts = body.include_reasoning is False
        model = texts.connected_model().name
        writer = ResponseWriter(response_id, model, echo(body), hides_thoughts=hides_thoughts)
        asking = _Asking(texts, question, names, writer, (response_id, request.state.request_id))
        forget_body(request)
        headers = {REQUEST_ID: response_id}
        if question.stream is None:
            return LaterJson(asking.whole, headers)
        return EventStream(asking.begin, asking.last_event, headers, comment_interval_s)


class _Asking:
    """One response that is asked for, and written once."""

    def __init__(
        self,
        texts: TextGenerator,
        question: Question,
        names: FieldNames,
        writer: ResponseWriter,
        ids: tuple[str, str],
    ) -> None:
        self._texts = texts
        self._question = question
        self._names = names
        self._writer = writer
        self._ids = ids

    async def whole(self) -> JsonObject:
        """Returns the response when all of it is there."""
        with self._names.told():
            answer = await begin_answer(self._texts, self._question, *self._ids)
            return self._writer.whole(await answer.whole())

    async def begin(self) -> AsyncGenerator[bytes, None]:
        """Begins the response, and returns its events."""
        with self._names.told():
            return self._events(await begin_answer(self._texts, self._question, *self._ids))

    async def _events(self, answer: Answer) -> AsyncGenerator[bytes, None]:
        try:
            yield self._writer.begun()  # before the answer is read, which closes it
            async with aclosing(answer.chunks()) as chunks:
                async for chunk in chunks:
                    if events := self._writer.part(chunk):
                        yield events
        finally:
            answer.close()
        yield self._writer.ended()

    def last_event(self, error: BaseException) -> bytes:
        """Returns the event that ends a stream which cannot be begun or finished."""
        told = told_error(*self._ids, error)
        return self._writer.failed(self._names.translated(told) if isinstance(told, InvalidRequest) else told)
