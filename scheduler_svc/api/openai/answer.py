"""One answer: its generations, begun all or none, and how they are written, at once or as a stream.

Knows nothing of HTTP but that an error of a stream that has begun must travel in it.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import count

from scheduler_svc.api.choices.generations import choices_of, submit_all
from scheduler_svc.api.choices.merging import merged
from scheduler_svc.api.deltas import Delta, end_apart, joined, scores_apart
from scheduler_svc.api.draft import Draft
from scheduler_svc.api.openai.question import Choice, JsonObject, Question, StreamPlan
from scheduler_svc.api.openai.token_texts import TokenTexts
from scheduler_svc.api.openai.wire.errors import ModelNotFound, error_body
from scheduler_svc.api.openai.wire.field_names import FieldNames
from scheduler_svc.api.openai.wire.sse import DONE, event
from scheduler_svc.api.sampling import require_prompt_numbers
from scheduler_svc.api.text_generation import PreparedGeneration, TextGeneration, TextGenerator
from scheduler_svc.errors import BatchFailed, InvalidRequest, ServiceError

_log = logging.getLogger(__name__)

# Log-probabilities of a prompt, alternatives included: about ten milliseconds of writing, and one of JSON.
MAX_NUMBERS_PER_CHUNK = 1024


class Answer:
    """An answer under way; whoever began it reads it once, as a whole or as a stream, which closes it.

    Attributes:
        answer_id: The id that the caller is told; generations that run for it are called so, too.
    """

    def __init__(
        self,
        answer_id: str,
        request_id: str,
        model: str,
        question: Question,
        choices: list[list[Choice]],
        generations: list[TextGeneration],
    ) -> None:
        self.answer_id = answer_id
        self._request_id = request_id
        self._question = question
        self._generations = generations
        self._choices = choices
        self._plan = question.choices
        self._usage = _RunningUsage(generations, question.choices.num_generations)
        self._head: JsonObject = {
            "id": answer_id,
            "object": question.chunk_object if question.stream else question.whole_object,
            "created": int(time.time()),
            "model": model,
        }
        self._tail: JsonObject = {"service_tier": question.service_tier}

    async def whole(self, note: Callable[[Delta], None] | None = None) -> JsonObject:
        """Returns the answer when all of it is there; raises ServiceError if a part of it cannot be finished.

        Args:
            note: Is given each delta as it comes; what it raises ends the answer.
        """
        deltas: list[list[Delta]] = [[] for _ in self._generations]
        try:
            async with aclosing(merged(self._generations)) as arriving:
                async for index, delta in arriving:
                    deltas[index].append(delta)
                    self._usage.add(delta)
                    if note is not None:
                        note(delta)
        except BatchFailed as error:
            self._log_failure(error)
            raise
        finally:
            self.close()
        wholes = [joined(parts) for parts in deltas]
        if any(whole.scores is not None for whole in wholes):
            return await asyncio.to_thread(self._write, wholes)  # a prompt's tokens may be very many
        return self._write(wholes)

    def _write(self, wholes: Sequence[Delta]) -> JsonObject:
        """Returns the answer, given all of each generation."""
        of_prompt = self._choices[0][0].of_prompt(wholes[0])
        return {**self._head, "choices": self._chosen(wholes), **of_prompt, "usage": self._usage.read(), **self._tail}

    def _chosen(self, wholes: Sequence[Delta]) -> list[JsonObject]:
        """Returns the choices of all prompts, of their generations."""
        num = self._plan.num_generations
        by_prompt = [self._plan.chosen(wholes[start : start + num]) for start in range(0, len(wholes), num)]
        pairs = zip(self._choices, by_prompt, strict=True)
        return [
            choice.whole(delta) for choices, chosen in pairs for choice, delta in zip(choices, chosen, strict=False)
        ]

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yields the answer as events, [DONE] at last; raises ServiceError if a part of it cannot be finished."""
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                yield event(chunk)
        yield DONE

    async def chunks(self) -> AsyncGenerator[JsonObject, None]:
        """Yields the answer in parts; raises ServiceError if one of them cannot be finished.

        They are one object, changed for each delta: it is to be written before the next is asked for.
        """
        plan = self._question.stream or StreamPlan()
        usage = {"usage": None} if plan.include_usage else {}
        chunk: JsonObject = {**self._head, "choices": [], **usage, **self._tail}
        writers = [choice for choices in self._choices for choice in choices]
        is_first = True
        try:
            async with aclosing(merged(self._generations)) as arriving:
                async for index, delta in arriving:
                    self._usage.add(delta)
                    for place, part in self._parts(index, delta):
                        if not (plan.continuous_usage or writers[place].says(part)):
                            continue
                        chunk["choices"] = [await _written(writers[place], part)]
                        if plan.continuous_usage:
                            chunk["usage"] = self._usage.read()
                        yield {**chunk, **writers[place].of_prompt(part)} if is_first else chunk
                        is_first = False
            if plan.include_usage:
                yield {**chunk, "choices": [], "usage": self._usage.read()}
        except BatchFailed as error:
            self._log_failure(error)
            raise
        finally:
            self.close()

    def _parts(self, index: int, delta: Delta) -> Iterator[tuple[int, Delta]]:
        """Yields what a delta of a generation adds to which choices."""
        for place, whole in self._plan.parts(index, delta):
            for piece in scores_apart(whole, MAX_NUMBERS_PER_CHUNK):
                for part in end_apart(piece):
                    yield place, part

    def _log_failure(self, error: ServiceError) -> None:
        """Logs whose answer it was that failed: the engine knows the answer's id only."""
        _log.error("answer_failed request_id=%s answer_id=%s error=%r", self._request_id, self.answer_id, str(error))

    def close(self) -> None:
        """Ends what still runs; whoever reads the answer to its end, or begins to, need not."""
        for generation in self._generations:
            generation.close()


def require_model(texts: TextGenerator, name: str | None) -> None:
    """Raises ModelNotFound unless the name is one of the served model's, or absent."""
    model = texts.connected_model()
    if name is not None and name not in model.names:
        raise ModelNotFound(name, model.told_names)


def new_answer_id(question: Question) -> str:
    """Returns an id for an answer that is going to be begun."""
    return f"{question.id_prefix}-{uuid.uuid4().hex}"


async def begin_answer(texts: TextGenerator, question: Question, answer_id: str, request_id: str) -> Answer:
    """Begins what the question asks for; `request_id` is what the log calls it.

    Raises:
        ServiceError: A part of it was refused; then nothing of it runs.
    """
    is_single = len(question.drafts) == 1
    drafts = [
        replace(named.draft, request_id=answer_id if is_single else f"{answer_id}-{index}")
        for index, named in enumerate(question.drafts)
    ]
    prepared = await prepare_all(texts, question, drafts)
    question.forget_prompts()
    return begin_prepared(texts, question, answer_id, request_id, prepared)


async def prepare_all(texts: TextGenerator, question: Question, drafts: Sequence[Draft]) -> list[PreparedGeneration]:
    """Prepares the choices of drafts that stand for the question's; raises ServiceError, in the question's words."""
    pairs = zip(question.drafts, drafts, strict=True)
    each = [await _prepare(texts, named.names, draft) for named, draft in pairs]
    prepared = [choice for one in each for choice in choices_of(one, question.choices.num_generations)]
    try:
        require_prompt_numbers(sum(one.num_prompt_numbers for one in prepared))
    except InvalidRequest as error:
        raise question.drafts[0].names.translated(error) from error
    return prepared


def begin_prepared(
    texts: TextGenerator, question: Question, answer_id: str, request_id: str, prepared: list[PreparedGeneration]
) -> Answer:
    """Begins what was prepared for a question; raises ServiceError if a part is refused: then nothing runs."""
    model = texts.connected_model().name
    # Before anything runs: a decoder that fails would leave generations that nobody reads.
    plan = question.choices
    choices = [
        [
            question.new_choice(first + place, TokenTexts(one.tokenizer, one.request.prompt_token_ids))
            for place in range(plan.num_choices)
        ]
        for first, one in zip(count(0, plan.num_choices), prepared[:: plan.num_generations], strict=False)
    ]
    generations = submit_all(texts, prepared, plan.num_generations)
    return Answer(answer_id, request_id, model, question, choices, generations)


def error_event(answer_id: str, request_id: str, error: BaseException) -> bytes:
    """Returns the event that ends a stream which cannot be begun or finished, in place of [DONE]."""
    return event(error_body(told_error(answer_id, request_id, error)))


def told_error(answer_id: str, request_id: str, error: BaseException) -> ServiceError:
    """Returns what a caller is told of an error; one that nobody foresaw is logged."""
    if isinstance(error, ServiceError):
        return error
    _log.error("request_id=%s answer_id=%s failed unexpectedly", request_id, answer_id, exc_info=error)
    return ServiceError("internal error")


async def _written(choice: Choice, part: Delta) -> JsonObject:
    """Returns what a part adds to a choice; what is told of a prompt is written beside the event loop."""
    return choice.part(part) if part.scores is None else await asyncio.to_thread(choice.part, part)


async def _prepare(texts: TextGenerator, names: FieldNames, draft: Draft) -> PreparedGeneration:
    try:
        return await texts.prepare(draft)
    except InvalidRequest as error:
        raise names.translated(error) from error


class _RunningUsage:
    """Counts what an answer has used; a prompt counts once, however many choices it has."""

    def __init__(self, generations: list[TextGeneration], num_per_prompt: int) -> None:
        starts = range(0, len(generations), num_per_prompt)
        self._prompts = [generations[start : start + num_per_prompt] for start in starts]
        self._num_prompt_tokens = sum(len(choices[0].prompt_token_ids) for choices in self._prompts)
        self._num_output_tokens = 0

    def add(self, delta: Delta) -> None:
        """Counts what is new."""
        self._num_output_tokens += delta.num_tokens

    def read(self) -> JsonObject:
        """Returns the counts so far."""
        return {
            "prompt_tokens": self._num_prompt_tokens,
            "completion_tokens": self._num_output_tokens,
            "total_tokens": self._num_prompt_tokens + self._num_output_tokens,
            "prompt_tokens_details": {"cached_tokens": self._num_cached_tokens()},
        }

    def _num_cached_tokens(self) -> int:
        """Counts what no choice had to compute: further choices find what the first one computed for this answer."""
        return sum(min(choice.num_cached_tokens for choice in choices) for choices in self._prompts)
