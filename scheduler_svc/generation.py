"""The one internal call behind every public API: a validated request in, a stream of token events out.

The engine implements `Generator`; gRPC servicers (and any other front end) translate to and from it. Token ids only:
text belongs to the front ends.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from typing import Protocol

from scheduler_svc.core.beams.params import BeamParams
from scheduler_svc.core.cache.load import MemoryLoad
from scheduler_svc.core.state.prompt_scores import PromptScores
from scheduler_svc.core.state.results import Hypothesis, TokenLogprob, WorkerModel
from scheduler_svc.core.state.sequence import (
    FinishReason,
    RequestClass,
    SamplingParams,
    SessionTurn,
    StopConditions,
    Targets,
    Usage,
)
from scheduler_svc.errors import Refusal


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request that has passed validation; `prompt_token_ids` and the output together fit the model's length.

    Attributes:
        targets: The times that it asks for itself; of a best-effort request none.
        deadline_s: When the caller gives up, on the clock of the event loop; None: never.
        cache_salt: Keeps its cache apart from requests of another salt.
        session: The turn of a program that it is, if it is one.
        output_token_ids: Tokens that it has already, from an earlier life; its stream yields what follows them, and its
            usage counts them.
        tenant: On whose behalf it runs; ids are told apart by tenant.
        beams: How to search for texts; None: one is sampled.
    """

    request_id: str
    request_class: RequestClass
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    stop: StopConditions
    targets: Targets = field(default_factory=Targets)
    deadline_s: float | None = None
    cache_salt: bytes = b""
    session: SessionTurn | None = None
    output_token_ids: tuple[int, ...] = ()
    tenant: str = ""
    beams: BeamParams | None = None

    @property
    def most_tokens(self) -> int:
        """Tokens that it may come to have, of prompt and outputs together."""
        return len(self.prompt_token_ids) + self.stop.max_tokens * (1 if self.beams is None else self.beams.width)


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """Tokens since the last event, merged when the reader is slow; `finish_reason` and `usage` come with the last.

    Attributes:
        tops: The most probable tokens at the place of each, as many as were asked for; empty if none were.
        scores: How probable tokens of the prompt are, since the last event; all come before the first token.
        hypotheses: The texts that a beam search found, best first; the tokens of the event are the first one's.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    tops: tuple[tuple[TokenLogprob, ...], ...] = ()
    scores: PromptScores | None = None
    hypotheses: tuple[Hypothesis, ...] = ()


class TokenStream(Protocol):
    """The events of one request. Closing it early ends the request; after the last event closing does nothing."""

    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Yields events until the one with a finish reason; raises ServiceError when the request cannot be finished."""

    def usage(self) -> Usage:
        """Returns what the request has used so far."""

    def calls(self, tool: str) -> None:
        """Takes in that the answer calls a tool, which its text shows; the answer may be over by then."""

    def close(self, reason: FinishReason = FinishReason.ABORTED) -> None:
        """Ends the request if it is live, for that reason."""


class WorkerState(Enum):
    """The worker as the scheduler sees it."""

    ABSENT = 1
    READY = 2
    HUNG = 3


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """How a model's makers sample from it; None where they don't say."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the connected worker said about its model in Hello.

    Attributes:
        core: The numbers that scheduling needs.
        tokenizer_json: The tokenizer, serialized by the `tokenizers` library; empty if the model has none.
        chat_template: Jinja source; empty if the model has none.
        special_tokens: Texts such as {"bos_token": "<s>"} that the template may use.
        sampling: How tokens are chosen where a request does not say.
        other_names: What else requests may call it than `name`, which is what answers call it.
        checkpoint_dtype: The checkpoint's type; empty if it is not known.
        dtype_reason: Why it is computed in `dtype`, in a few words.
        no_structure_reason: Why texts can't be kept to structures; empty where they can.
    """

    core: WorkerModel
    name: str
    family: str
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    dtype: str
    quantization: str
    device: str
    tokenizer_json: bytes
    chat_template: str
    special_tokens: dict[str, str]
    sampling: SamplingDefaults = SamplingDefaults()
    other_names: tuple[str, ...] = ()
    checkpoint_dtype: str = ""
    dtype_reason: str = ""
    no_structure_reason: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All its names, the one that answers carry first."""
        return (self.name, *self.other_names)

    @property
    def told_names(self) -> tuple[str, ...]:
        """Those that a caller is told, the same one first: where a model lies on the machine is nobody's business."""
        return (self.name, *(name for name in self.other_names if not PurePath(name).is_absolute()))

    @property
    def identity(self) -> str:
        """A word for what decides which tokens it generates, the same over lives of worker and scheduler.

        It is as much as Hello says: other weights under the same name look equal.
        """
        told = (self.name, self.family, self.vocab_size, self.dtype, self.quantization, self.core.experts_by_layer)
        return hashlib.sha256(repr((*told, len(self.tokenizer_json))).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class ClassLoad:
    """Load of one class; fields as in admin.proto. What is predicted is None while it is not known."""

    queued_prefill: int
    queued_decode: int
    running: int
    offloaded: int
    num_finished: int
    num_generated_tokens: int
    num_prompt_tokens: int
    busy_ns: int
    num_first_tokens: int
    num_first_tokens_in_time: int
    num_paced: int
    num_paced_in_time: int
    num_judged: int
    num_attained: int
    predicted_wait_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Loads:
    """Loads and counters of the service; fields as in admin.proto's GetLoadsResponse."""

    latency_sensitive: ClassLoad
    best_effort: ClassLoad
    total_blocks: int
    free_blocks: int
    outstanding_ms: float
    wait_bound_ms: float
    busy_ns: int
    control_idle_ns: int
    num_commands: int
    num_iterations: int
    num_preemptions_at_layer: int
    num_preemptions_at_expert: int
    num_joins: int
    num_riders: int
    num_offloads: int
    num_promotions: int
    be_share: float
    memory: MemoryLoad


@dataclass(frozen=True, slots=True)
class IntegrityCheck:
    """What a check of the books of memory found; fields as in admin.proto."""

    problems: tuple[str, ...]
    num_held_blocks: int = 0
    num_sequences: int = 0


class Generator(Protocol):
    """What front ends need of the engine."""

    @property
    def model(self) -> ServedModel | None:
        """The connected worker's model, or the last one's while another is waited for; None where none is."""

    @property
    def worker_state(self) -> WorkerState:
        """The worker's state."""

    @property
    def worker_epoch(self) -> int:
        """The connected or last worker's epoch; 0 if none ever connected."""

    @property
    def no_sharing_reason(self) -> str:
        """Why prompts that begin alike do not share what is cached of them; empty where they do."""

    def on_state_change(self, tell: Callable[[], None]) -> None:
        """Calls `tell` after each change of `worker_state`, from now on; it must not raise."""

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Queues a request.

        Raises:
            DuplicateRequest, Overloaded, DeadlineTooSoon, WorkerUnavailable: It was refused, and nothing was queued.
        """

    def submit_choices(self, requests: Sequence[GenerationRequest]) -> list[TokenStream]:
        """Queues requests that differ in seed alone, so that their prompt is computed once.

        Raises:
            DuplicateRequest, Overloaded, DeadlineTooSoon, WorkerUnavailable: One was refused, and nothing was queued.
        """

    def abort(self, request_id: str, tenant: str | None = None) -> bool:
        """Ends a live request, whose stream then ends with ABORTED; returns False if there is none.

        Args:
            request_id: What the caller calls it.
            tenant: Whose it is; None: whoever's, and all that are called so.
        """

    def loads(self) -> Loads:
        """Returns the loads now."""

    async def check_integrity(self) -> IntegrityCheck:
        """Checks the books of memory on both sides, which takes seconds if the worker has much to do."""

    def metrics(self) -> bytes:
        """Returns the metrics as they stand, as the page that Prometheus reads."""

    def note_refused(self, request_class: RequestClass, refusal: Refusal) -> None:
        """Counts a request that was refused."""
