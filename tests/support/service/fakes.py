"""A real Generator with no engine behind it: deterministic tokens, paced and ended as a test says."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, fields, replace

from scheduler_svc.core.cache.load import MemoryLoad
from scheduler_svc.core.state.prompt_scores import PromptScores
from scheduler_svc.core.state.results import Hypothesis, TokenLogprob, WorkerModel
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, Usage
from scheduler_svc.errors import DuplicateRequest, Refusal, ServiceError
from scheduler_svc.generation import (
    ClassLoad,
    GenerationRequest,
    IntegrityCheck,
    Loads,
    ServedModel,
    TokenEvent,
    WorkerState,
)
from tests.support.models.sample_tokenizers import CHAT_TEMPLATE, EOS_ID, SPECIAL_TOKENS, byte_level_tokenizer

MEMORY = MemoryLoad(**{field.name: number for number, field in enumerate(fields(MemoryLoad), start=30)})
"""Another number in each field."""


def served_model(**changes: object) -> ServedModel:
    """A model with a byte-level tokenizer, a chat template and a context of 512 tokens; `changes` replace fields."""
    tokenizer = byte_level_tokenizer()
    core = WorkerModel(
        experts_by_layer=(8, 8),
        num_experts_per_token=2,
        block_size=16,
        num_blocks=64,
        num_host_blocks=64,
        max_model_len=512,
        num_disk_blocks=32,
    )
    model = ServedModel(
        core=core,
        name="fake",
        family="mixtral",
        vocab_size=tokenizer.get_vocab_size(),
        eos_token_ids=(EOS_ID,),
        dtype="float32",
        quantization="none",
        device="cpu",
        tokenizer_json=tokenizer.to_str().encode(),
        chat_template=CHAT_TEMPLATE,
        special_tokens=SPECIAL_TOKENS,
        checkpoint_dtype="bfloat16",
        dtype_reason="measurement: bfloat16/float32=2.21",
    )
    return replace(model, **changes)  # type: ignore[arg-type]


def echo(request: GenerationRequest) -> list[int]:
    """The prompt's own tokens, over and over, up to max_tokens."""
    prompt = request.prompt_token_ids
    return [prompt[index % len(prompt)] for index in range(request.stop.max_tokens)]


def nothing_cached(request: GenerationRequest) -> int:
    """No token."""
    return 0


@dataclass
class FakeStream:
    """One request's events. Tokens come one an event, or `tokens_per_event`, until a stop token or the script's end."""

    generator: "FakeGenerator"
    request: GenerationRequest
    script: list[int]
    num_cached_tokens: int = 0
    num_out: int = 0
    key: str = ""
    closed: bool = False
    aborted: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        for scores in self.scores():
            yield TokenEvent((), (), scores=scores)
        if not self.script and not self.request.stop.max_tokens:
            self.end()
            yield TokenEvent((), (), FinishReason.LENGTH, self.usage())
            return
        while True:
            await self.generator.pace(self)
            if self.aborted.is_set():
                self.end()
                yield TokenEvent((), (), FinishReason.ABORTED, self.usage())
                return
            if self.generator.fail_with is not None and self.num_out >= self.generator.fail_after:
                self.end()
                raise self.generator.fail_with
            event = self.next_event()
            yield event
            if event.finish_reason is not None:
                return

    def found(self) -> TokenEvent:
        """The end of a search: its script, and beginnings of it, each scored a little less."""
        self.num_out = len(self.script)
        self.end()
        params = self.request.beams
        assert params is not None
        texts = [tuple(self.script[: max(1, self.num_out - place)]) for place in range(params.num_returned)]
        hypotheses = tuple(
            Hypothesis(text, (-0.5,) * len(text), -0.25 * (place + 1), self.reason_of(text))
            for place, text in enumerate(texts)
        )
        return TokenEvent(
            texts[0], hypotheses[0].logprobs, hypotheses[0].finish_reason, self.usage(), hypotheses=hypotheses
        )

    def reason_of(self, text: tuple[int, ...]) -> FinishReason:
        return FinishReason.STOP if text[-1] in self.request.stop.stop_token_ids else FinishReason.LENGTH

    def next_event(self) -> TokenEvent:
        if self.request.beams is not None:
            return self.found()
        chunk: list[int] = []
        reason: FinishReason | None = None
        while reason is None and len(chunk) < self.generator.tokens_per_event:
            token_id = self.script[self.num_out]
            chunk.append(token_id)
            self.num_out += 1
            if token_id in self.request.stop.stop_token_ids and self.num_out > self.request.stop.min_tokens:
                reason = FinishReason.STOP
            elif self.num_out == len(self.script):
                reason = FinishReason.LENGTH
        usage = None
        if reason is not None:
            self.end()
            usage = self.usage()
        tops = tuple(self.top(token_id) for token_id in chunk) if self.request.sampling.num_top_logprobs else ()
        return TokenEvent(tuple(chunk), tuple(-0.5 for _ in chunk), reason, usage, tops)

    def scores(self) -> list[PromptScores]:
        """The prompt's tokens in pieces, each less probable, if asked for."""
        most, prompt = self.request.sampling.num_prompt_logprobs, self.request.prompt_token_ids
        if most is None:
            return []
        length = self.generator.scores_per_event
        return [self.piece(prompt[first : first + length], first, most) for first in range(1, len(prompt), length)]

    def piece(self, token_ids: tuple[int, ...], first: int, most: int) -> PromptScores:
        logprobs = [-0.25 * (first + index) for index in range(len(token_ids))]
        ids = [3 + place for _ in token_ids for place in range(most)]
        return PromptScores(first, token_ids, logprobs, [7] * len(token_ids), most, ids, [-0.5 * one for one in ids])

    def top(self, token_id: int) -> tuple[TokenLogprob, ...]:
        """The token, and others in the vocabulary's order, each less probable."""
        others = (other for other in range(3, 100) if other != token_id)
        chosen = [token_id, *itertools.islice(others, 20)][: self.request.sampling.num_top_logprobs]
        return tuple(TokenLogprob(one, -0.5 * (place + 1)) for place, one in enumerate(chosen))

    def usage(self) -> Usage:
        return Usage(len(self.request.prompt_token_ids), self.num_out, 0.001, 0.002, 0.003, 4, self.num_cached_tokens)

    def calls(self, tool: str) -> None:
        self.generator.called.append(tool)

    def end(self) -> None:
        self.generator.live.pop(self.key, None)

    def close(self, reason: FinishReason = FinishReason.ABORTED) -> None:
        if not self.closed and self.key in self.generator.live:
            self.generator.closed_early.append(self.key)
            self.generator.closing_reasons.append(reason)
        self.closed = True
        self.end()


@dataclass
class FakeGenerator:
    """Implements scheduler_svc.generation.Generator.

    Attributes:
        script: Tokens that a request generates.
        cached: How many tokens of its prompt are found.
        hold_after: A stream waits once it has given this many tokens, until it is aborted; None: never.
        refuse_with: Raised by submit.
        fail_with: Raised by streams.
        fail_after: That many tokens come first.
        live: Streams that are not over.
        submitted: Every request that was accepted.
        closed_early: Ids of requests whose stream was closed while live, and the reasons.
        called: Tools that answers called.
        refused: What front ends told of requests that they refused.
        check: What a check of memory finds.
    """

    model: ServedModel | None = field(default_factory=served_model)
    worker_state: WorkerState = WorkerState.READY
    worker_epoch: int = 7
    no_sharing_reason: str = ""
    script: Callable[[GenerationRequest], list[int]] = echo
    cached: Callable[[GenerationRequest], int] = nothing_cached
    tokens_per_event: int = 1
    scores_per_event: int = 3
    hold_after: int | None = None
    refuse_with: ServiceError | None = None
    fail_with: Exception | None = None
    fail_after: int = 0
    live: dict[str, FakeStream] = field(default_factory=dict)
    submitted: list[GenerationRequest] = field(default_factory=list)
    closed_early: list[str] = field(default_factory=list)
    closing_reasons: list[FinishReason] = field(default_factory=list)
    called: list[str] = field(default_factory=list)
    refused: list[tuple[RequestClass, Refusal]] = field(default_factory=list)
    listeners: list[Callable[[], None]] = field(default_factory=list)
    check: IntegrityCheck = field(default_factory=lambda: IntegrityCheck(()))

    def change_state(self, state: WorkerState) -> None:
        self.worker_state = state
        for tell in self.listeners:
            tell()

    def on_state_change(self, tell: Callable[[], None]) -> None:
        self.listeners.append(tell)

    def submit_choices(self, requests: Sequence[GenerationRequest]) -> list[FakeStream]:
        if any(self.of(requests[0].request_id)):
            raise DuplicateRequest(requests[0].request_id)
        streams: list[FakeStream] = []
        try:
            for request in requests:
                streams.append(self.submit(request))  # noqa: PERF401 - those before one that is refused are closed
        except ServiceError:
            for stream in streams:
                stream.close()
            raise
        return streams

    def submit(self, request: GenerationRequest) -> FakeStream:
        if self.refuse_with is not None:
            raise self.refuse_with
        num_out = len(request.output_token_ids)
        num_before = len(self.of(request.request_id))
        key = f"{request.request_id} {num_before}" if num_before else request.request_id
        stream = FakeStream(self, request, self.script(request), self.cached(request), num_out, key)
        self.live[stream.key] = stream
        self.submitted.append(request)
        return stream

    def abort(self, request_id: str, tenant: str | None = None) -> bool:
        found = [stream for stream in self.of(request_id) if tenant in (None, stream.request.tenant)]
        for stream in found:
            stream.aborted.set()
        return bool(found)

    def of(self, request_id: str) -> list[FakeStream]:
        """The live streams of a request: one for each choice."""
        return [stream for stream in self.live.values() if stream.request.request_id == request_id]

    async def pace(self, stream: FakeStream) -> None:
        """Lets a stream go on, or holds it."""
        if self.hold_after is not None and stream.num_out >= self.hold_after:
            await stream.aborted.wait()
        await asyncio.sleep(0)

    def note_refused(self, request_class: RequestClass, refusal: Refusal) -> None:
        self.refused.append((request_class, refusal))

    async def check_integrity(self) -> IntegrityCheck:
        return self.check

    def metrics(self) -> bytes:
        return b"a_metric 1.0\n"

    def loads(self) -> Loads:
        one = ClassLoad(
            queued_prefill=1,
            queued_decode=2,
            running=len(self.live),
            offloaded=4,
            num_finished=5,
            num_generated_tokens=6,
            num_prompt_tokens=7,
            busy_ns=8,
            num_first_tokens=20,
            num_first_tokens_in_time=19,
            num_paced=16,
            num_paced_in_time=12,
            num_judged=10,
            num_attained=5,
            predicted_wait_ms=250.0,
        )
        return Loads(
            latency_sensitive=one,
            best_effort=replace(one, queued_prefill=100),
            total_blocks=64,
            free_blocks=60,
            outstanding_ms=1.5,
            wait_bound_ms=5.0,
            busy_ns=10,
            control_idle_ns=11,
            num_commands=12,
            num_iterations=13,
            num_preemptions_at_layer=14,
            num_preemptions_at_expert=15,
            num_joins=16,
            num_riders=19,
            num_offloads=17,
            num_promotions=18,
            be_share=0.25,
            memory=MEMORY,
        )
