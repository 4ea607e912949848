"""The text side of a Generator, the same for every front end: a draft in, deltas of text and tokens out.

Owns validation, tokenization and detokenization of each generation, in that order around the engine. Knows no wire
format; errors leave as ServiceError.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from scheduler_svc.api.answering import PLAIN, Answering
from scheduler_svc.api.beams import require_tokens, valid_beams, without_draws
from scheduler_svc.api.deltas import Delta, DeltaBuilder
from scheduler_svc.api.draft import ChatPrompt, Draft, Prompt
from scheduler_svc.api.entrance import Entrance
from scheduler_svc.api.gbnf import with_lark
from scheduler_svc.api.hypotheses import found
from scheduler_svc.api.parts import PartReader
from scheduler_svc.api.prompt import prompt_token_ids
from scheduler_svc.api.refusals import counting_refusals
from scheduler_svc.api.reuse import valid_cache_salt, valid_session
from scheduler_svc.api.sampling import bad_word_ids, num_prompt_numbers, require_prompt_numbers, valid_sampling
from scheduler_svc.api.structure import valid_grammar
from scheduler_svc.api.tokenization import Tokenization
from scheduler_svc.api.tools import ToolUse, judged_conversation
from scheduler_svc.api.validation import (
    context_tokens,
    num_kept_tokens,
    require_kept_text,
    stop_tokens_of,
    valid_request_id,
    valid_stop,
    valid_stop_strings,
    valid_targets,
)
from scheduler_svc.caller import current_tenant
from scheduler_svc.errors import WorkerUnavailable
from scheduler_svc.generation import GenerationRequest, Generator, ServedModel, TokenEvent, TokenStream
from scheduler_svc.security.grant import current_grant
from scheduler_svc.security.quotas import Place
from scheduler_svc.text.detokenizer import TextAssembler
from scheduler_svc.text.formats.settings import DEFAULT_FORMATS, FormatSettings
from scheduler_svc.text.model_text import ModelText, ModelTextCache
from scheduler_svc.text.threads import TextThreads
from scheduler_svc.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class PreparedGeneration:
    """A generation that may be submitted, and what makes its text.

    Attributes:
        model: What it was tokenized for.
        new_assembler: Makes what makes its text, or another text to the same prompt.
        new_reader: Makes what finds thoughts and calls in a text, where there may be some.
        stop_tokens: Stop strings that are special tokens, by id.
        includes_stop: Whether what ends the text is a part of it.
        earlier: What it had in an earlier life; its answer begins with it.
        tools: The functions that it may call.
    """

    model: ServedModel
    request: GenerationRequest
    tokenizer: Tokenizer | None
    new_assembler: Callable[[], TextAssembler]
    new_reader: Callable[[], PartReader | None]
    stop_tokens: Mapping[int, str]
    includes_stop: bool = False
    earlier: TokenEvent | None = None
    tools: frozenset[str] = frozenset()

    def resumed(self, token_ids: tuple[int, ...], logprobs: tuple[float, ...]) -> "PreparedGeneration":
        """Returns the generation that goes on from these tokens; from its start if they can't be its first ones.

        From its start, too, if alternatives of each token were asked for, which are not known of these, or
        log-probabilities of the prompt, which nobody kept, and if it is a beam search, which has no tokens before its
        end.

        Args:
            token_ids: What it generated in an earlier life, without its last token.
            logprobs: One for each of them.
        """
        sampling, beams = self.request.sampling, self.request.beams
        if sampling.num_top_logprobs or sampling.num_prompt_logprobs is not None or beams is not None:
            return self
        fits = 0 < len(token_ids) == len(logprobs) and len(token_ids) < self.request.stop.max_tokens
        if not fits or not 0 <= min(token_ids) <= max(token_ids) < self.model.vocab_size:
            return self
        request = replace(self.request, output_token_ids=token_ids)
        return replace(self, request=request, earlier=TokenEvent(token_ids, logprobs))

    @property
    def num_prompt_numbers(self) -> int:
        """Log-probabilities that are told of its prompt, alternatives included."""
        return num_prompt_numbers(self.request.sampling, len(self.request.prompt_token_ids))

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt, and of the longest outputs."""
        return self.request.most_tokens


class TextGeneration:
    """One generation that runs; whoever began it reads it once and closes it.

    Attributes:
        request_id: As given or made.
        prompt_token_ids: Tokens of the prompt.
        tokenizer: The model's; None if it has none.
    """

    def __init__(self, prepared: PreparedGeneration, stream: TokenStream, place: Place, entrance: Entrance) -> None:
        self.request_id = prepared.request.request_id
        self.prompt_token_ids = prepared.request.prompt_token_ids
        self.tokenizer = prepared.tokenizer
        self._earlier = prepared.earlier
        self._tools = prepared.tools
        self._stream = stream
        self._place = place
        self._entrance = entrance
        entrance.enter(self)
        self._new_builder = partial(_delta_builder, prepared, stream)
        self._deltas = self._new_builder()

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of the prompt that others had computed; 0 until work on it begins."""
        return self._stream.usage().num_cached_tokens

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Yields deltas until the one with a finish; raises ServiceError when the generation cannot be finished."""
        if self._earlier is not None:  # its text and its stop strings may go on into what follows
            delta = self._step(self._earlier)
            yield delta
            if delta.finish is not None:
                return
        async for event in self._stream:
            delta = self._step(event)
            yield delta
            if delta.finish is not None:
                return
        raise RuntimeError(f"{self.request_id}: the token stream ended without a finish reason")

    def _step(self, event: TokenEvent) -> Delta:
        delta = found(event, self._new_builder) if event.hypotheses else self._deltas.step(event)
        for call in delta.calls:
            if call.name in self._tools:  # others take no time
                self._stream.calls(call.name)
        if delta.finish is not None:
            # A stop string ends work that would go on while the last delta is written.
            self._stream.close(delta.finish.reason)
        return delta

    def close(self) -> None:
        """Aborts the generation if it is live."""
        self._stream.close()
        usage = self._stream.usage()
        self._place.leave(usage.num_prompt_tokens + usage.num_output_tokens)
        self._entrance.leave(self)


class TextGenerator:
    """Begins generations from drafts.

    Args:
        generator: Runs them.
        threads: Works on long texts; closed with this.
        formats: How to tell in which formats a model writes.

    Attributes:
        entrance: Knows which generations are under way, and whether there may be new ones.
        tokenization: Tokenizes for those who generate nothing.
    """

    def __init__(
        self, generator: Generator, threads: TextThreads | None = None, formats: FormatSettings = DEFAULT_FORMATS
    ) -> None:
        self.entrance = Entrance()
        self._generator = generator
        self._texts = ModelTextCache(formats)
        self._threads = threads or TextThreads()
        self.tokenization = Tokenization(self._texts, self._threads, self.entrance)

    async def prepare(self, draft: Draft) -> PreparedGeneration:
        """Validates and tokenizes a draft, what is cheap to refuse first; raises ServiceError if it is refused."""
        with counting_refusals(self._generator, draft.request_class):
            return await self._prepare(draft)

    def check(self, draft: Draft) -> None:
        """Raises InvalidRequest for a value that is wrong whatever the prompt is, as far as that is known now.

        Cheap: nothing is tokenized. Without a model little is known.
        """
        valid_targets(draft.targets, draft.request_class)
        valid_cache_salt(draft.cache_salt)
        valid_session(draft.session)
        valid_beams(draft)
        require_kept_text(draft.structure, draft.stop.max_tokens)
        model = self._generator.model
        if model is not None:
            valid_sampling(draft.sampling, model.vocab_size, model.sampling)
            valid_stop(draft.stop, model, may_be_empty=draft.sampling.num_prompt_logprobs is not None)
            num_kept_tokens(draft.truncate_prompt_tokens, draft.stop, context_tokens(model))

    async def _prepare(self, draft: Draft) -> PreparedGeneration:
        grant = current_grant()
        grant.require_class(draft.request_class)
        grant.account.require_place(_now_s())  # before the text is worked on
        self.entrance.require_open()
        model = self.connected_model()
        text = await self._texts.of(model)
        request_id = valid_request_id(draft.request_id)
        targets = valid_targets(draft.targets, draft.request_class)
        tenant = current_tenant()
        cache_salt = valid_cache_salt(draft.cache_salt, tenant)
        session = valid_session(draft.session)
        beams = valid_beams(draft)
        require_kept_text(draft.structure, draft.stop.max_tokens)
        asked = draft.sampling if beams is None else without_draws(draft.sampling)
        bad_words = bad_word_ids(asked.bad_words, text.tokenizer, model.vocab_size)
        sampling = replace(valid_sampling(asked, model.vocab_size, model.sampling), bad_words=bad_words)
        stop_strings = valid_stop_strings(draft.stop.stop_strings, text.tokenizer)
        stop_tokens = stop_tokens_of(stop_strings, text.tokenizer, model.vocab_size)
        if beams is not None:
            require_tokens(stop_strings, stop_tokens)
        is_scored = sampling.num_prompt_logprobs is not None
        requested_stop = valid_stop(draft.stop, model, stop_tokens, may_be_empty=is_scored)
        num_kept = num_kept_tokens(draft.truncate_prompt_tokens, draft.stop, context_tokens(model))
        use, setting = await judged_conversation(
            draft.prompt, model.chat_template, text.formats, draft.request_class, self._threads
        )
        token_ids = await prompt_token_ids(
            draft.prompt, draft.request_class, model, text, self._threads, setting, num_kept
        )
        require_prompt_numbers(num_prompt_numbers(sampling, len(token_ids)))
        answering = _answering(draft.prompt, use, token_ids, text)
        stop = requested_stop.conditions(len(token_ids), context_tokens(model))
        structure = with_lark(draft.structure)
        grammar = await valid_grammar(structure, model, stop.stop_token_ids, text.grammars, answering.grammar)
        sampling = replace(sampling, grammar=grammar)
        new_assembler = partial(
            TextAssembler,
            answering.decoder(text.tokenizer, shows_special=draft.show_special_tokens),
            token_ids,
            stop_strings,
            stop.min_tokens,
            includes_stop=draft.stop.include_stop_string,
        )
        return PreparedGeneration(
            model=model,
            request=GenerationRequest(
                request_id,
                draft.request_class,
                token_ids,
                sampling,
                stop,
                targets,
                draft.deadline_s,
                cache_salt,
                session,
                tenant=tenant,
                beams=beams,
            ),
            tokenizer=text.tokenizer,
            new_assembler=new_assembler,
            new_reader=answering.reader,
            stop_tokens=stop_tokens,
            includes_stop=draft.stop.include_stop_string,
            tools=frozenset(one.name for one in use.functions),
        )

    def submit(self, prepared: PreparedGeneration) -> TextGeneration:
        """Queues a generation; raises ServiceError if it is refused, and then nothing was queued."""
        return self.submit_choices([prepared])[0]

    def submit_choices(self, prepared: Sequence[PreparedGeneration]) -> list[TextGeneration]:
        """Queues generations that differ in seed alone; raises ServiceError if one is refused: then none is."""
        with counting_refusals(self._generator, prepared[0].request.request_class):
            self.entrance.require_open()
            if self._generator.model != prepared[0].model:
                raise WorkerUnavailable("the model was changed while the prompt was tokenized; send the request again")
            places: list[Place] = []
            with ExitStack() as undo:
                for one in prepared:
                    places.append(place := Place(current_grant().account, one.most_tokens, _now_s))
                    undo.callback(place.leave, 0)
                streams = self._generator.submit_choices([one.request for one in prepared])
                undo.pop_all()
            triples = zip(prepared, streams, places, strict=True)
            return [TextGeneration(one, stream, place, self.entrance) for one, stream, place in triples]

    def connected_model(self) -> ServedModel:
        """Returns the model that is served; raises WorkerUnavailable while there is none."""
        model = self._generator.model
        if model is None:
            raise WorkerUnavailable("no worker is connected, so no model is served; try again later")
        return model

    async def warm_up(self) -> None:
        """Makes the connected model's tokenizer and template ready, so that the first request does not wait for it."""
        model = self._generator.model
        if model is not None:
            await self._texts.warm_up(model)

    def close(self) -> None:
        """Drops texts that wait to be worked on."""
        self._threads.close()
        self._texts.close()


def _delta_builder(prepared: PreparedGeneration, stream: TokenStream) -> DeltaBuilder:
    """Returns what builds the deltas of one text."""
    return DeltaBuilder(
        prepared.new_assembler(),
        stream.usage,
        prepared.stop_tokens,
        prepared.new_reader(),
        includes_stop=prepared.includes_stop,
    )


def _answering(prompt: Prompt, use: ToolUse, token_ids: Sequence[int], text: ModelText) -> Answering:
    """Returns how an answer is read: that of a chat only, since others go on from any text."""
    if not isinstance(prompt, ChatPrompt) or text.tokenizer is None:
        return PLAIN
    return Answering.of(text.formats, use, text.tokenizer, token_ids)


def _now_s() -> float:
    """Returns the time on the clock of the event loop, which is the engine's too."""
    return asyncio.get_running_loop().time()
