"""Jobs of many requests as Python values, and their translation from and to the messages of `qllm.v1`.

Knows nothing of channels and calls. Ranges are the service's to check.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from qllm.client.beams import decode_hypotheses
from qllm.client.checking import require_kind
from qllm.client.encoding import decode_top_logprobs, decode_usage, encode_request
from qllm.client.errors import InvalidRequest
from qllm.client.finish_reasons import decode_finish_reason
from qllm.client.kinds import kind_of
from qllm.client.messages import FinishReason, GenerateOptions, Hypothesis, Prompt, TokenLogprob, Usage
from qllm.client.tools import ToolCall, decode_calls
from qllm.v1 import batches_pb2 as pb


class BatchStatus(StrEnum):
    """Where a job is; the words are OpenAI's."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing changes it any more."""
        return self in (BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)


_PREFIX = "BATCH_STATUS_"


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One request of a job; it runs as best-effort work whatever its options say.

    Attributes:
        custom_id: What it is called in the results; unique in the job.
        prompt: Plain text, token ids or a conversation.
        options: As `AsyncClient.generate` takes them; the class, targets, request id and timeout are not used.
    """

    custom_id: str
    prompt: Prompt
    options: GenerateOptions = field(default_factory=GenerateOptions)


@dataclass(frozen=True, slots=True)
class BatchInputError:
    """What is wrong with one line of a job's input file; lines count from 1."""

    line: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A job as it stands. Times are in seconds since 1970 on the service's clock; None: not yet."""

    batch_id: str
    status: BatchStatus
    endpoint: str
    num_items: int
    num_succeeded: int
    num_failed: int
    metadata: dict[str, str]
    created_at_s: float
    expires_at_s: float
    in_progress_at_s: float | None
    cancelling_at_s: float | None
    ended_at_s: float | None
    errors: tuple[BatchInputError, ...]

    @property
    def num_ended(self) -> int:
        """Items with a result of their own."""
        return self.num_succeeded + self.num_failed


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Jobs, newest first; an empty token says that no page follows."""

    batches: tuple[Batch, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The whole generation of one item; fields are those of `GenerationResult`."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    stop_string: str | None
    usage: Usage
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    hypotheses: tuple[Hypothesis, ...] = ()


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why an item has no answer; `code` is the name of a gRPC status."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one item: exactly one of `answer`, `json` and `error`.

    Attributes:
        position: The item's place in the job, from 0.
        custom_id: What it is called.
        answer: The generation.
        json: The answer of an item that came over HTTP, a JSON object of OpenAI's API.
        error: Why there is none.
    """

    position: int
    custom_id: str
    answer: BatchAnswer | None = None
    json: str | None = None
    error: ItemError | None = None


def encode_batch(
    items: Sequence[BatchItem], key: str, metadata: Mapping[str, str], completion_window_s: float | None
) -> list[pb.CreateBatchRequest]:
    """Builds the messages that create a job.

    Raises:
        InvalidRequest: A value is of another kind; it is named.
    """
    require_kind("idempotency_key", key, _TEXT)
    require_kind("metadata", metadata, _METADATA)
    if completion_window_s is not None:
        require_kind("completion_window_s", completion_window_s, _NUMBER)
    header = pb.BatchHeader(idempotency_key=key, metadata=metadata, completion_window_s=completion_window_s)
    return [pb.CreateBatchRequest(header=header), *_encode_items(items)]


def _encode_items(items: Sequence[BatchItem]) -> Iterator[pb.CreateBatchRequest]:
    for index, item in enumerate(items):
        require_kind(f"items[{index}]", item, _ITEM)
        require_kind(f"items[{index}].custom_id", item.custom_id, _TEXT)
        try:
            request = encode_request(item.prompt, item.options)
        except InvalidRequest as error:
            raise InvalidRequest(f"items[{index}]: {error}") from error
        yield pb.CreateBatchRequest(item=pb.NewBatchItem(custom_id=item.custom_id, request=request))


_TEXT, _NUMBER, _METADATA, _ITEM = map(kind_of, (str, float, Mapping[str, str], BatchItem))


def decode_batch(message: pb.Batch) -> Batch:
    """Translates a job."""
    return Batch(
        batch_id=message.batch_id,
        status=BatchStatus(pb.BatchStatus.Name(message.status).removeprefix(_PREFIX).lower()),
        endpoint=message.endpoint,
        num_items=message.num_items,
        num_succeeded=message.num_succeeded,
        num_failed=message.num_failed,
        metadata=dict(message.metadata),
        created_at_s=message.created_at_s,
        expires_at_s=message.expires_at_s,
        in_progress_at_s=message.in_progress_at_s if message.HasField("in_progress_at_s") else None,
        cancelling_at_s=message.cancelling_at_s if message.HasField("cancelling_at_s") else None,
        ended_at_s=message.ended_at_s if message.HasField("ended_at_s") else None,
        errors=tuple(BatchInputError(error.line, error.code, error.message) for error in message.errors),
    )


def decode_result(message: pb.BatchResult) -> BatchResult:
    """Translates the result of one item."""
    kind = message.WhichOneof("outcome")
    return BatchResult(
        position=message.position,
        custom_id=message.custom_id,
        answer=_decode_answer(message) if kind == "response" else None,
        json=message.json if kind == "json" else None,
        error=ItemError(message.error.code, message.error.message) if kind == "error" else None,
    )


def _decode_answer(message: pb.BatchResult) -> BatchAnswer:
    response = message.response
    return BatchAnswer(
        text=response.text,
        token_ids=tuple(response.token_ids),
        logprobs=tuple(response.logprobs),
        finish_reason=decode_finish_reason(response.finish.reason),
        stop_string=response.finish.stop_string or None,
        usage=decode_usage(response.finish.usage),
        top_logprobs=decode_top_logprobs(response),
        tool_calls=decode_calls(response),
        reasoning=response.reasoning,
        hypotheses=decode_hypotheses(response),
    )
