"""Translates between the core's messages and frames of the control channel, and refuses frames that make no sense.

Pure: it knows no socket and keeps no state. Whatever a peer sends becomes a valid value or a ProtocolError, never
another error. Source: protos/qllm/v1/control.proto.
"""

import math
import zlib
from collections.abc import Callable, Iterable

from google.protobuf.message import DecodeError
from qllm.protocol import MAX_TOKENIZER_BYTES
from qllm.v1 import control_pb2, inference_pb2

from scheduler_svc.core.beams.search import Candidate
from scheduler_svc.core.state import commands
from scheduler_svc.core.state.cursor import Cursor, PreemptAt, Stage
from scheduler_svc.core.state.ids import BatchId, CommandId, SeqId
from scheduler_svc.core.state.prompt_scores import PromptScores, ScoredTokens
from scheduler_svc.core.state.results import (
    BatchError,
    IntegrityReport,
    SampledToken,
    SequenceError,
    StepResult,
    TokenLogprob,
    WorkerModel,
    WorkTiming,
)
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, Tier
from scheduler_svc.generation import SamplingDefaults, ServedModel

_MAX_LAYERS = 10_000
_MAX_EXPERTS = 100_000
_MAX_VOCAB = 1 << 28
_MAX_COUNT = 1 << 31
_MAX_BYTES = 1 << 50
_MAX_DURATION_NS = 30 * 24 * 3600 * 10**9
_NO_REASON = inference_pb2.FINISH_REASON_UNSPECIFIED

_TIMING_LIMITS = {
    field: _MAX_DURATION_NS if field.endswith("_ns") else 1 << 60 for field in WorkTiming.__dataclass_fields__
}
_FINISH_REASONS: dict[int, FinishReason | None] = {
    _NO_REASON: None,
    inference_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    inference_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}
_REQUEST_CLASSES = {
    RequestClass.LATENCY_SENSITIVE: inference_pb2.REQUEST_CLASS_LATENCY_SENSITIVE,
    RequestClass.BEST_EFFORT: inference_pb2.REQUEST_CLASS_BEST_EFFORT,
}
_NUMBERS_OF_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "seed",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_TIERS = {Tier.HOST: control_pb2.TIER_HOST, Tier.DISK: control_pb2.TIER_DISK}
_STAGES = {Stage.ATTENTION: control_pb2.STAGE_ATTENTION, Stage.EXPERTS: control_pb2.STAGE_EXPERTS}
_PREEMPT_AT = {
    None: control_pb2.PREEMPT_AT_UNSPECIFIED,
    PreemptAt.ITERATION: control_pb2.PREEMPT_AT_UNSPECIFIED,
    PreemptAt.LAYER: control_pb2.PREEMPT_AT_LAYER,
    PreemptAt.EXPERT: control_pb2.PREEMPT_AT_EXPERT,
}


class ProtocolError(Exception):
    """A frame that is not what the protocol allows; the message says what was given and what is allowed."""


# Commands, to the worker.


def encode_command(epoch: int, command: commands.Command) -> bytes:
    """Returns the frame that carries `command` to the worker whose life is `epoch`."""
    message = control_pb2.ControlMessage(worker_epoch=epoch)
    _ENCODERS[type(command)](message.command, command)
    return message.SerializeToString()


def encode_welcome(epoch: int, heartbeat_interval_ms: int) -> bytes:
    """Returns the frame that accepts a worker; repeated, it says that the scheduler is there."""
    welcome = control_pb2.Welcome(heartbeat_interval_ms=heartbeat_interval_ms)
    command = control_pb2.StepCommand(welcome=welcome)
    return control_pb2.ControlMessage(worker_epoch=epoch, command=command).SerializeToString()


def encode_refused(epoch: int, reason: str, retry_after_s: float | None) -> bytes:
    """Returns the frame that refuses a worker: until it asks again after some seconds, or for good if that is None."""
    refused = control_pb2.Refused(reason=reason, final=retry_after_s is None)
    if retry_after_s is not None:
        refused.retry_after_ms = round(retry_after_s * 1000)
    command = control_pb2.StepCommand(refused=refused)
    return control_pb2.ControlMessage(worker_epoch=epoch, command=command).SerializeToString()


def encode_shutdown(epoch: int) -> bytes:
    """Returns the frame that ends a worker in good order."""
    command = control_pb2.StepCommand(shutdown=control_pb2.Shutdown())
    return control_pb2.ControlMessage(worker_epoch=epoch, command=command).SerializeToString()


def _add_sequence(step: control_pb2.StepCommand, command: commands.AddSequence) -> None:
    sampling, stop = command.sampling, command.stop
    step.add_sequence.seq_id = command.seq_id
    step.add_sequence.max_tokens = stop.max_tokens
    step.add_sequence.min_tokens = stop.min_tokens
    step.add_sequence.num_output_tokens = command.num_output_tokens
    step.add_sequence.stop_token_ids.extend(stop.stop_token_ids)
    step.add_sequence.shared_block_ids.extend(command.shared_block_ids)
    step.add_sequence.num_top_logprobs = sampling.num_top_logprobs
    step.add_sequence.num_prompt_alternatives = sampling.num_prompt_logprobs or 0
    step.add_sequence.grammar = sampling.grammar
    step.add_sequence.num_candidates = sampling.num_candidates
    step.add_sequence.prompt_token_ids.extend(command.prompt_token_ids)
    step.add_sequence.output_token_ids.extend(command.output_token_ids)
    for word in sampling.bad_words:
        step.add_sequence.bad_words.add(ids=word)
    target = step.add_sequence.sampling
    for field in _NUMBERS_OF_SAMPLING:
        setattr(target, field, getattr(sampling, field))
    target.logit_bias.update(sampling.logit_bias)
    target.allowed_token_ids.extend(sampling.allowed_token_ids)


def _fork_sequence(step: control_pb2.StepCommand, command: commands.ForkSequence) -> None:
    step.fork_sequence.seq_id, step.fork_sequence.parent_seq_id = command.seq_id, command.parent_seq_id
    step.fork_sequence.new_block_ids.extend(command.new_block_ids)


def _drop_sequence(step: control_pb2.StepCommand, command: commands.DropSequence) -> None:
    step.drop_sequence.seq_id = command.seq_id


def _offload_sequence(step: control_pb2.StepCommand, command: commands.OffloadSequence) -> None:
    step.offload_sequence.seq_id = command.seq_id
    step.offload_sequence.tier = _TIERS[command.tier]


def _restore_sequence(step: control_pb2.StepCommand, command: commands.RestoreSequence) -> None:
    step.restore_sequence.seq_id = command.seq_id
    step.restore_sequence.block_ids.extend(command.block_ids)
    step.restore_sequence.num_shared_blocks = command.num_shared_blocks


def _start_batch(step: control_pb2.StepCommand, command: commands.StartBatch) -> None:
    step.start_batch.batch_id = command.batch_id
    step.start_batch.request_class = _REQUEST_CLASSES[command.request_class]
    add = step.start_batch.items.add
    for item in command.items:  # hundreds in each iteration, most of them with neither tokens nor new blocks
        added = add(
            seq_id=item.seq_id, num_tokens=item.num_tokens, first_position=item.first_position, samples=item.samples
        )
        if item.token_ids:
            added.token_ids.extend(item.token_ids)
        if item.new_block_ids:
            added.new_block_ids.extend(item.new_block_ids)
        if item.scored_token_ids:
            added.scored_token_ids.extend(item.scored_token_ids)
        if item.also_sampled_ids:
            added.also_sampled_ids.extend(item.also_sampled_ids)


def _drop_batch(step: control_pb2.StepCommand, command: commands.DropBatch) -> None:
    step.drop_batch.batch_id = command.batch_id


def _advance(step: control_pb2.StepCommand, command: commands.Advance) -> None:
    step.advance.command_id = command.command_id
    step.advance.batch_ids.extend(command.batch_ids)
    until = step.advance.until
    until.layer, until.stage, until.expert = command.until.layer, _STAGES[command.until.stage], command.until.expert
    step.advance.preempt_at = _PREEMPT_AT[command.preempt_at]


def _preempt(step: control_pb2.StepCommand, command: commands.Preempt) -> None:
    step.preempt.first_command_id = command.first_command_id
    step.preempt.last_command_id = command.last_command_id


def _check_integrity(step: control_pb2.StepCommand, command: commands.CheckIntegrity) -> None:
    step.check_integrity.check_id = command.check_id


_ENCODERS: dict[type, Callable[..., None]] = {
    commands.AddSequence: _add_sequence,
    commands.ForkSequence: _fork_sequence,
    commands.DropSequence: _drop_sequence,
    commands.OffloadSequence: _offload_sequence,
    commands.RestoreSequence: _restore_sequence,
    commands.StartBatch: _start_batch,
    commands.DropBatch: _drop_batch,
    commands.Advance: _advance,
    commands.Preempt: _preempt,
    commands.CheckIntegrity: _check_integrity,
}


# Reports, from the worker.


def decode_report(frame: bytes) -> control_pb2.ControlMessage:
    """Parses a frame from a worker; raises ProtocolError unless it carries an epoch and a report that is known."""
    try:
        message = control_pb2.ControlMessage.FromString(frame)
    except DecodeError:
        raise ProtocolError(f"frame of {len(frame)} bytes is no ControlMessage") from None
    if message.WhichOneof("body") != "report" or message.report.WhichOneof("report") is None:
        raise ProtocolError("frame carries no report of a known kind; workers send reports only")
    if message.worker_epoch == 0:
        raise ProtocolError("worker_epoch: got 0, allowed is any other number")
    return message


def decode_model(hello: control_pb2.Hello) -> ServedModel:
    """Returns the model that a worker introduces, or raises ProtocolError naming what is wrong with it."""
    if not hello.HasField("model"):
        raise ProtocolError("hello.model: missing")
    model = hello.model
    _check("model.num_layers", model.num_layers, 1, _MAX_LAYERS)
    if len(model.experts_by_layer) != model.num_layers:
        raise ProtocolError(f"model.experts_by_layer: got {len(model.experts_by_layer)}, allowed is {model.num_layers}")
    most_experts = max(model.experts_by_layer)
    _check("model.experts_by_layer", most_experts, 0, _MAX_EXPERTS)
    _check("model.num_experts_per_token", model.num_experts_per_token, min(1, most_experts), most_experts)
    _check("model.vocab_size", model.vocab_size, 1, _MAX_VOCAB)
    for token_id in model.eos_token_ids:
        _check("model.eos_token_ids", token_id, 0, model.vocab_size - 1)
    _check("model.max_model_len", model.max_model_len, 2, _MAX_COUNT)
    _check("model.block_size", model.block_size, 1, 1 << 16)
    _check("model.num_blocks", model.num_blocks, 1, _MAX_COUNT)
    _check("model.num_host_blocks", model.num_host_blocks, 0, _MAX_COUNT)
    _check("model.num_disk_blocks", model.num_disk_blocks, 0, _MAX_COUNT)
    _check("model.num_states", model.num_states, 0, _MAX_COUNT)
    for field in ("block_bytes", "host_block_bytes", "state_bytes"):
        _check(f"model.{field}", getattr(model, field), 0, _MAX_BYTES)
    if not model.name:
        raise ProtocolError("model.name: got an empty text")
    return ServedModel(
        core=_worker_model(model),
        name=model.name,
        family=model.family,
        vocab_size=model.vocab_size,
        eos_token_ids=tuple(model.eos_token_ids),
        dtype=model.dtype,
        quantization=model.quantization or "none",
        device=model.device,
        tokenizer_json=_tokenizer_json(model),
        chat_template=model.chat_template,
        special_tokens=dict(model.special_tokens),
        sampling=_sampling_defaults(model.default_sampling, model.vocab_size),
        other_names=tuple(name for name in model.other_names if name),
        checkpoint_dtype=model.checkpoint_dtype,
        dtype_reason=model.dtype_reason,
        no_structure_reason=model.no_structure_reason,
    )


def _sampling_defaults(given: inference_pb2.SamplingParams, vocab_size: int) -> SamplingDefaults:
    limits = {
        "temperature": (0.0, 100.0),
        "top_k": (0, vocab_size),
        "top_p": (1e-300, 1.0),
        "min_p": (0.0, 1.0),
        "repetition_penalty": (0.01, 100.0),
    }
    values = {field: getattr(given, field) for field in limits if given.HasField(field)}  # type: ignore[arg-type]
    for field, value in values.items():
        _check(f"model.default_sampling.{field}", value, *limits[field])
    return SamplingDefaults(**values)


def _tokenizer_json(model: control_pb2.WorkerModel) -> bytes:
    """Returns the tokenizer, unpacked if need be, but never more of it than is allowed."""
    if not model.tokenizer_json_zlib:
        return model.tokenizer_json
    unpacking = zlib.decompressobj()
    try:
        unpacked = unpacking.decompress(model.tokenizer_json_zlib, MAX_TOKENIZER_BYTES)
    except zlib.error as error:
        raise ProtocolError(f"model.tokenizer_json_zlib: {error}") from None
    if not unpacking.eof:
        what = "more than" if unpacking.unconsumed_tail else "an incomplete"
        raise ProtocolError(
            f"model.tokenizer_json_zlib: got {what} {len(unpacked)} bytes, allowed are "
            f"{MAX_TOKENIZER_BYTES} at most, whole"
        )
    return unpacked


def _worker_model(model: control_pb2.WorkerModel) -> WorkerModel:
    return WorkerModel(
        experts_by_layer=tuple(model.experts_by_layer),
        num_experts_per_token=model.num_experts_per_token,
        block_size=model.block_size,
        num_blocks=model.num_blocks,
        num_host_blocks=model.num_host_blocks,
        max_model_len=model.max_model_len,
        computes_on_cpu=model.device == "cpu",
        num_disk_blocks=model.num_disk_blocks,
        block_bytes=model.block_bytes,
        host_block_bytes=model.host_block_bytes,
        state_bytes=model.state_bytes,
        num_states=model.num_states,
        no_sharing_reason=model.no_sharing_reason,
    )


def decode_calibration(hello: control_pb2.Hello) -> list[WorkTiming]:
    """Returns the timings of the worker's warm-up."""
    return [_timing(timing) for timing in hello.calibration]


def decode_step_result(result: control_pb2.StepResult, model: ServedModel) -> StepResult:
    """Returns what one Advance did; raises ProtocolError where it contradicts the model or itself."""
    _check("step_result.command_id", result.command_id, 1, 1 << 63)
    _check("step_result.duration_ns", result.duration_ns, 0, _MAX_DURATION_NS)
    if not result.HasField("reached"):
        raise ProtocolError("step_result.reached: missing")
    return StepResult(
        command_id=CommandId(result.command_id),
        reached=_cursor(result.reached, model.core),
        duration_ns=result.duration_ns,
        idle_ns=min(result.idle_ns, _MAX_DURATION_NS),
        tokens=tuple(_tokens(result.tokens, model.vocab_size)),
        batch_errors=tuple(
            BatchError(BatchId(error.batch_id), tuple(SeqId(seq_id) for seq_id in error.seq_ids), error.message)
            for error in result.batch_errors
        ),
        timing=_timing(result.timing),
        sequence_errors=tuple(
            SequenceError(SeqId(error.seq_id), error.message, error.cache_is_lost, error.rules_leave_nothing)
            for error in result.sequence_errors
        ),
        suspended_bytes=min(result.suspended_bytes, _MAX_BYTES),
        scored=tuple(ScoredTokens(SeqId(one.seq_id), _scores(one.tokens, model)) for one in result.scored),
    )


def decode_integrity_report(report: control_pb2.IntegrityReport) -> IntegrityReport:
    """Returns what the worker found in its books of memory."""
    return IntegrityReport(**{field: getattr(report, field) for field in IntegrityReport.__dataclass_fields__})


def _cursor(cursor: control_pb2.Cursor, model: WorkerModel) -> Cursor:
    _check("cursor.layer", cursor.layer, 0, model.num_layers)
    if cursor.stage == control_pb2.STAGE_ATTENTION:
        _check("cursor.expert before attention", cursor.expert, 0, 0)
        return Cursor(cursor.layer, Stage.ATTENTION)
    if cursor.stage != control_pb2.STAGE_EXPERTS:
        raise ProtocolError(f"cursor.stage: got {cursor.stage}, allowed are 1 (attention) and 2 (experts)")
    _check("cursor.layer of experts", cursor.layer, 0, model.num_layers - 1)
    _check("cursor.expert", cursor.expert, 0, model.experts_by_layer[cursor.layer])
    return Cursor(cursor.layer, Stage.EXPERTS, cursor.expert)


def _tokens(tokens: Iterable[control_pb2.SampledToken], vocab_size: int) -> Iterable[SampledToken]:
    for token in tokens:  # hundreds in each iteration: checked in place
        token_id, logprob, finish_reason = token.token_id, token.logprob, token.finish_reason
        if not 0 <= token_id < vocab_size:
            raise ProtocolError(f"token_id: got {token_id}, allowed is 0 to {vocab_size - 1}")
        if math.isnan(logprob):
            raise ProtocolError("logprob: got NaN, allowed is a number")
        if finish_reason not in _FINISH_REASONS:
            raise ProtocolError(f"finish_reason: got {finish_reason}, allowed are {sorted(_FINISH_REASONS)}")
        top = _top(token.top, vocab_size) if token.HasField("top") else ()
        candidates = _candidates(token.candidates, vocab_size) if token.HasField("candidates") else None
        yield SampledToken(SeqId(token.seq_id), token_id, logprob, _FINISH_REASONS[finish_reason], top, candidates)


def _candidates(given: control_pb2.Candidates, vocab_size: int) -> tuple[Candidate, ...]:
    """Returns tokens that may come next; none where rules exclude all."""
    num = len(given.token_ids)
    _check("candidates.token_ids", num, 0, vocab_size)
    _check("candidates.logprobs", len(given.logprobs), num, num)
    _check("candidates.scores", len(given.scores), num, num)
    for token_id in (min(given.token_ids), max(given.token_ids)) if num else ():
        _check("candidates.token_id", token_id, 0, vocab_size - 1)
    for number in (*given.logprobs, *given.scores):
        if not math.isfinite(number):
            raise ProtocolError(f"candidates: got {number}, allowed are finite numbers")
    return tuple(map(Candidate, given.token_ids, given.logprobs, given.scores))


def _top(top: inference_pb2.TopLogprobs, vocab_size: int) -> tuple[TokenLogprob, ...]:
    """Returns the most probable tokens at one place."""
    _check("top.tokens", len(top.tokens), 0, vocab_size)
    for one in top.tokens:
        _check("top.token_id", one.token_id, 0, vocab_size - 1)
        _check("top.logprob", one.logprob, -math.inf, math.inf)
    return tuple(TokenLogprob(one.token_id, one.logprob) for one in top.tokens)


def _scores(tokens: inference_pb2.PromptLogprobs, model: ServedModel) -> PromptScores:
    """Returns how probable tokens of a prompt were; of thousands of tokens, so whole columns are looked at."""
    num_tokens, num_alternatives = len(tokens.token_ids), tokens.num_alternatives
    _check("scored.first_position", tokens.first_position, 1, model.core.max_model_len - num_tokens)
    _check("scored.num_alternatives", num_alternatives, 0, model.vocab_size)
    for field, expected in (
        ("logprobs", num_tokens),
        ("ranks", num_tokens),
        ("alternative_ids", num_tokens * num_alternatives),
        ("alternative_logprobs", num_tokens * num_alternatives),
    ):
        _check(f"scored.{field}", len(getattr(tokens, field)), expected, expected)
    for field, low, high in (
        ("token_ids", 0, model.vocab_size - 1),
        ("ranks", 1, model.vocab_size),
        ("alternative_ids", 0, model.vocab_size - 1),
    ):
        column = getattr(tokens, field)
        if column:
            _check(f"scored.{field}", min(column), low, high)
            _check(f"scored.{field}", max(column), low, high)
    if any(map(math.isnan, tokens.logprobs)) or any(map(math.isnan, tokens.alternative_logprobs)):
        raise ProtocolError("scored.logprobs: got NaN, allowed is a number")
    return PromptScores(
        tokens.first_position,
        list(tokens.token_ids),
        list(tokens.logprobs),
        list(tokens.ranks),
        num_alternatives,
        list(tokens.alternative_ids),
        list(tokens.alternative_logprobs),
    )


def _timing(timing: control_pb2.WorkTiming) -> WorkTiming:
    values = {field: getattr(timing, field) for field in _TIMING_LIMITS}
    for field, value in values.items():
        _check(f"timing.{field}", value, 0, _TIMING_LIMITS[field])
    return WorkTiming(**values)


def _check(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ProtocolError(f"{field}: got {value}, allowed is {low} to {high}")
