"""Runs items whose body is that of a request of OpenAI's API: the answer is what that request would get.

An item with one choice goes on from where an earlier attempt stood; one with several begins anew each time.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from scheduler_svc.api.jobs.items import AnswerItem, ProgressNotes, as_item, item_id, require_not_aborted, resumed
from scheduler_svc.api.json_text import read_json
from scheduler_svc.api.openai.answer import begin_prepared, prepare_all, require_model
from scheduler_svc.api.openai.chat import chat_question
from scheduler_svc.api.openai.completions import completion_question
from scheduler_svc.api.openai.question import JsonObject, Question
from scheduler_svc.api.openai.responses.request import response_question
from scheduler_svc.api.openai.responses.response import RESPONSE_ID_PREFIX, ResponseWriter, echo
from scheduler_svc.api.openai.responses.schema import ResponsesRequest
from scheduler_svc.api.openai.wire.errors import BodyUnreadable, invalid_object
from scheduler_svc.api.openai.wire.field_names import FieldNames
from scheduler_svc.api.openai.wire.schemas import ChatCompletionRequest, CompletionRequest
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.jobs.job import Claim, ItemKind, Progress

_TIER = "batch"
_OWN_NAMES = FieldNames({})


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an item asks for.

    Attributes:
        question: In itself.
        id_prefix: Begins the answer's id.
        names: What the item calls the fields that the question has other names for.
        written: Writes the answer, given its id and what the question's answer is.
    """

    question: Question
    id_prefix: str
    names: FieldNames = _OWN_NAMES
    written: Callable[[str, JsonObject], JsonObject] = lambda _, answer: answer


def json_items(texts: TextGenerator) -> Mapping[ItemKind, AnswerItem]:
    """Returns what runs items of each kind with `texts`."""

    async def answer(claim: Claim, notes: ProgressNotes) -> bytes:
        asked = _asked(claim, texts)
        answer_id = f"{asked.id_prefix}{item_id(claim)}"
        with asked.names.told():
            answer = asked.written(answer_id, await _answered(asked.question, texts, claim, answer_id, notes))
        return json.dumps(answer, separators=(",", ":")).encode()

    return {ItemKind.COMPLETION: answer, ItemKind.CHAT_COMPLETION: answer, ItemKind.RESPONSE: answer}


async def _answered(
    question: Question, texts: TextGenerator, claim: Claim, answer_id: str, notes: ProgressNotes
) -> JsonObject:
    drafts = [as_item(named.draft, claim, choice) for choice, named in enumerate(question.drafts)]
    prepared = await prepare_all(texts, question, drafts)
    progress, is_single = Progress(), len(prepared) == 1
    if is_single:  # of several choices there is no progress: it would not be known whose it is
        prepared[0], progress = resumed(prepared[0], claim.progress)
    begun = begin_prepared(texts, question, answer_id, item_id(claim), prepared)
    notes.queued(progress)
    return await begun.whole(notes.add if is_single else require_not_aborted)


def _asked(claim: Claim, texts: TextGenerator) -> _Asked:
    """Returns what the item asks for, as work of a batch; raises ServiceError for what is wrong with it."""
    try:
        given = read_json(claim.body)
    except (ValueError, RecursionError) as error:
        raise BodyUnreadable(str(error)) from error
    try:
        asked = _read(claim.kind, given, texts)
    except RecursionError as error:
        raise BodyUnreadable("it is nested too deeply") from error
    except ValidationError as error:
        raise invalid_object(error) from error
    if asked.question.stream is not None:
        raise InvalidRequest("stream", True, "false or null: the answers of a batch come as a whole")
    return replace(asked, question=replace(asked.question, service_tier=_TIER))


def _read(kind: ItemKind, given: object, texts: TextGenerator) -> _Asked:
    if kind is ItemKind.COMPLETION:
        completion = CompletionRequest.model_validate(given)
        require_model(texts, completion.model)
        question = completion_question(completion)
    elif kind is ItemKind.CHAT_COMPLETION:
        chat = ChatCompletionRequest.model_validate(given)
        require_model(texts, chat.model)
        question = chat_question(chat)
    else:
        return _read_response(ResponsesRequest.model_validate(given), texts)
    return _Asked(question, f"{question.id_prefix}-")


def _read_response(body: ResponsesRequest, texts: TextGenerator) -> _Asked:
    require_model(texts, body.model)
    question, names = response_question(body)
    model, echoed = texts.connected_model().name, {**echo(body), "service_tier": _TIER}
    hides_thoughts = body.include_reasoning is False

    def written(response_id: str, answer: JsonObject) -> JsonObject:
        return ResponseWriter(response_id, model, echoed, hides_thoughts=hides_thoughts).whole(answer)

    return _Asked(question, RESPONSE_ID_PREFIX, names, written)
