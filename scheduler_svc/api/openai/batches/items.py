"""Runs items whose body is that of a request of OpenAI's API: the answer is what that request would get.

An item with one choice goes on from where an earlier attempt stood; one with several begins anew each time.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from scheduler_svc.api.jobs.items import AnswerItem, ProgressNotes, as_item, item_id, require_not_aborted, resumed
from scheduler_svc.api.openai.answer import begin_prepared, prepare_all, require_model
from scheduler_svc.api.openai.chat import chat_question
from scheduler_svc.api.openai.completions import completion_question
from scheduler_svc.api.openai.question import Question
from scheduler_svc.api.openai.wire.errors import BodyUnreadable, invalid_body
from scheduler_svc.api.openai.wire.schemas import ChatCompletionRequest, CompletionRequest
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.jobs.job import Claim, ItemKind, Progress

_JSON = "application/json"


def json_items(texts: TextGenerator) -> Mapping[ItemKind, AnswerItem]:
    """Returns what runs items of both kinds with `texts`."""

    async def answer(claim: Claim, notes: ProgressNotes) -> bytes:
        question = _question(claim, texts)
        drafts = [as_item(named.draft, claim, choice) for choice, named in enumerate(question.drafts)]
        prepared = await prepare_all(texts, question, drafts)
        progress, is_single = Progress(), len(prepared) == 1
        if is_single:  # of several choices there is no progress: it would not be known whose it is
            prepared[0], progress = resumed(prepared[0], claim.progress)
        answer_id = f"{question.id_prefix}-{item_id(claim)}"
        begun = begin_prepared(texts, question, answer_id, item_id(claim), prepared)
        notes.queued(progress)
        answer = await begun.whole(notes.add if is_single else require_not_aborted)
        return json.dumps(answer, separators=(",", ":")).encode()

    return {ItemKind.COMPLETION: answer, ItemKind.CHAT_COMPLETION: answer}


def _question(claim: Claim, texts: TextGenerator) -> Question:
    """Returns what the item asks for, as work of a batch; raises ServiceError for what is wrong with it."""
    try:
        given = json.loads(claim.body)
    except (ValueError, RecursionError) as error:
        raise BodyUnreadable(str(error)) from error
    try:
        question = _read(claim.kind, given, texts)
    except ValidationError as error:
        located = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise invalid_body(RequestValidationError(located), _JSON) from error
    if question.stream is not None:
        raise InvalidRequest("stream", True, "false or null: the answers of a batch come as a whole")
    return replace(question, service_tier="batch")


def _read(kind: ItemKind, given: object, texts: TextGenerator) -> Question:
    if kind is ItemKind.COMPLETION:
        completion = CompletionRequest.model_validate(given)
        require_model(texts, completion.model)
        return completion_question(completion)
    chat = ChatCompletionRequest.model_validate(given)
    require_model(texts, chat.model)
    return chat_question(chat)
