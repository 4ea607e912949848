"""Translates between frames of the control channel and the worker's own messages; refuses commands that make no sense.

Pure: it knows no socket and keeps no state. Source: protos/qllm/v1/control.proto.
"""

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from qllm.protocol import MAX_FRAME_BYTES, PROTOCOL_VERSION
from qllm.settings import SettingRefused
from qllm.v1 import control_pb2, inference_pb2

from gpu_worker.channel.tokenizer_fields import tokenizer_fields
from gpu_worker.contract.commands import (
    AddSequence,
    Advance,
    BatchItem,
    CheckIntegrity,
    Command,
    DropBatch,
    DropSequence,
    ForkSequence,
    OffloadSequence,
    PreemptAt,
    RestoreSequence,
    Sampling,
    StartBatch,
    Tier,
)
from gpu_worker.contract.introduction import Hello, WorkerModel
from gpu_worker.contract.results import AdvanceOutcome, FinishReason, IntegrityReport, WorkTiming
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused

_STAGES = {control_pb2.STAGE_ATTENTION: Stage.ATTENTION, control_pb2.STAGE_EXPERTS: Stage.EXPERTS}
_STAGES_BACK = {stage: value for value, stage in _STAGES.items()}
_TIERS = {control_pb2.TIER_HOST: Tier.HOST, control_pb2.TIER_DISK: Tier.DISK}
_TIERS_BACK = {tier: value for value, tier in _TIERS.items()}
_PREEMPT_AT = {control_pb2.PREEMPT_AT_LAYER: PreemptAt.LAYER, control_pb2.PREEMPT_AT_EXPERT: PreemptAt.EXPERT}
_PREEMPT_AT_BACK = {None: control_pb2.PREEMPT_AT_UNSPECIFIED} | {place: value for value, place in _PREEMPT_AT.items()}
_FINISH_REASONS = {
    None: inference_pb2.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: inference_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
}
_TIMING_FIELDS = tuple(field.name for field in fields(WorkTiming))


# ---- commands, from the scheduler


def decode_command(step: control_pb2.StepCommand) -> Command | Advance | CheckIntegrity:
    """Returns a command; raises CommandRefused if the worker knows no such kind, or it names no place in a model."""
    kind = step.WhichOneof("command")
    if kind is None or kind not in _DECODERS:
        raise CommandRefused(f"command {kind} is not known to this worker")
    return _DECODERS[kind](getattr(step, kind))


def _add_sequence(add: control_pb2.AddSequence) -> AddSequence:
    return AddSequence(
        add.seq_id,
        _sampling(add),
        tuple(add.stop_token_ids),
        add.max_tokens,
        add.min_tokens,
        add.num_output_tokens,
        tuple(add.shared_block_ids),
        tuple(add.prompt_token_ids),
        tuple(add.output_token_ids),
    )


def _sampling(add: control_pb2.AddSequence) -> Sampling:
    given = add.sampling
    return Sampling(
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        min_p=given.min_p,
        typical_p=given.typical_p if given.HasField("typical_p") else 1.0,
        seed=given.seed,
        repetition_penalty=given.repetition_penalty if given.HasField("repetition_penalty") else 1.0,
        presence_penalty=given.presence_penalty,
        frequency_penalty=given.frequency_penalty,
        logit_bias=tuple(sorted(given.logit_bias.items())),
        allowed_token_ids=tuple(given.allowed_token_ids),
        bad_words=tuple(tuple(word.ids) for word in add.bad_words),
        num_top_logprobs=add.num_top_logprobs,
        num_prompt_alternatives=add.num_prompt_alternatives,
        grammar=add.grammar,
        num_candidates=add.num_candidates,
    )


def _restore_sequence(restore: control_pb2.RestoreSequence) -> RestoreSequence:
    return RestoreSequence(restore.seq_id, tuple(restore.block_ids), restore.num_shared_blocks)


def _start_batch(start: control_pb2.StartBatch) -> StartBatch:
    items = [
        BatchItem(
            item.seq_id,
            item.num_tokens,
            tuple(item.token_ids),
            item.first_position,
            tuple(item.new_block_ids),
            item.samples,
            tuple(item.scored_token_ids),
            tuple(item.also_sampled_ids),
        )
        for item in start.items
    ]
    return StartBatch(start.batch_id, items)


def _advance(advance: control_pb2.Advance) -> Advance:
    until = advance.until
    stage = _STAGES.get(until.stage)
    if stage is None:
        raise CommandRefused(f"until.stage: got {until.stage}, allowed are {sorted(_STAGES)}")
    cursor = Cursor(until.layer, stage, until.expert)
    return Advance(advance.command_id, tuple(advance.batch_ids), cursor, _PREEMPT_AT.get(advance.preempt_at))


_DECODERS: dict[str, Callable[[Any], Command | Advance | CheckIntegrity]] = {
    "add_sequence": _add_sequence,
    "drop_sequence": lambda drop: DropSequence(drop.seq_id),
    "fork_sequence": lambda fork: ForkSequence(fork.seq_id, fork.parent_seq_id, tuple(fork.new_block_ids)),
    "offload_sequence": lambda offload: OffloadSequence(offload.seq_id, _TIERS.get(offload.tier, Tier.HOST)),
    "restore_sequence": _restore_sequence,
    "start_batch": _start_batch,
    "drop_batch": lambda drop: DropBatch(drop.batch_id),
    "advance": _advance,
    "check_integrity": lambda check: CheckIntegrity(check.check_id),
}


# ---- commands, from one rank to the others


def encode_command(command: Command | Advance) -> bytes:
    """Returns a command as the scheduler would send it; `decode_frame` reads it."""
    step = control_pb2.StepCommand()
    match command:
        case AddSequence():
            step.add_sequence.MergeFrom(control_pb2.AddSequence(**_named(command) | _sampling_fields(command.sampling)))
        case DropSequence():
            step.drop_sequence.seq_id = command.seq_id
        case ForkSequence():
            step.fork_sequence.MergeFrom(control_pb2.ForkSequence(**_named(command)))
        case OffloadSequence():
            step.offload_sequence.seq_id = command.seq_id
            step.offload_sequence.tier = _TIERS_BACK[command.tier]
        case RestoreSequence():
            step.restore_sequence.MergeFrom(control_pb2.RestoreSequence(**_named(command)))
        case StartBatch():
            step.start_batch.batch_id = command.batch_id
            for item in command.items:
                step.start_batch.items.add(**item._asdict())
        case DropBatch():
            step.drop_batch.batch_id = command.batch_id
        case Advance():
            layer, stage, expert = command.until
            until = control_pb2.Cursor(layer=layer, stage=_STAGES_BACK[stage], expert=expert)
            preempt_at = _PREEMPT_AT_BACK[command.preempt_at]
            step.advance.MergeFrom(control_pb2.Advance(**{**_named(command), "until": until, "preempt_at": preempt_at}))
    return step.SerializeToString()


def _sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """Returns what AddSequence says of how tokens are chosen."""
    values = asdict(sampling)
    bad_words = [inference_pb2.TokenIds(ids=word) for word in values.pop("bad_words")]
    beside = {
        name: values.pop(name) for name in ("num_top_logprobs", "num_prompt_alternatives", "num_candidates", "grammar")
    }
    params = inference_pb2.SamplingParams(**values | {"logit_bias": dict(sampling.logit_bias)})
    return {"sampling": params, "bad_words": bad_words, **beside}


def decode_frame(frame: bytes) -> Command | Advance:
    """Returns the command that `encode_command` wrote."""
    command = decode_command(control_pb2.StepCommand.FromString(frame))
    if isinstance(command, CheckIntegrity):
        raise CommandRefused("ranks do not check one another")
    return command


def _named(message: Any) -> dict[str, Any]:
    return {one.name: getattr(message, one.name) for one in fields(message)}


# ---- reports, to the scheduler


def encode_outcome(command_id: int, outcome: AdvanceOutcome) -> control_pb2.WorkerReport:
    """Returns the answer to an Advance, without its times."""
    report = control_pb2.WorkerReport()
    result = report.step_result
    result.command_id = command_id
    result.suspended_bytes = outcome.suspended_bytes
    reached, (layer, stage, expert) = result.reached, outcome.reached
    reached.layer, reached.stage, reached.expert = layer, _STAGES_BACK[stage], expert
    _write_timing(result.timing, outcome.timing)
    add = result.tokens.add
    for seq_id, token_id, logprob, finish_reason, top, candidates in outcome.tokens:  # hundreds in each iteration
        added = add(seq_id=seq_id, token_id=token_id, logprob=logprob, finish_reason=_FINISH_REASONS[finish_reason])
        for one in top:
            added.top.tokens.add(token_id=one.token_id, logprob=one.logprob)
        if candidates is not None:
            token_ids, logprobs, scores = zip(*candidates, strict=True) if candidates else ((), (), ())
            added.candidates.CopyFrom(control_pb2.Candidates(token_ids=token_ids, logprobs=logprobs, scores=scores))
    for scored in outcome.scored:
        tokens = _named(scored)
        result.scored.add(seq_id=tokens.pop("seq_id"), tokens=inference_pb2.PromptLogprobs(**tokens))
    for error in outcome.batch_errors:
        result.batch_errors.add(batch_id=error.batch_id, seq_ids=error.seq_ids, message=error.message)
    for failed in outcome.sequence_errors:
        result.sequence_errors.add(**asdict(failed))
    return report


def encode_refusal(command_id: int, message: str) -> control_pb2.WorkerReport:
    """Returns the answer to a command that could not be carried out at all; the id is 0 for all but Advance."""
    return control_pb2.WorkerReport(command_error=control_pb2.CommandError(message=message, command_id=command_id))


def encode_integrity_report(report: IntegrityReport) -> control_pb2.WorkerReport:
    """Returns the answer to CheckIntegrity."""
    return control_pb2.WorkerReport(integrity_report=control_pb2.IntegrityReport(**asdict(report)))


def encode_hello(hello: Hello) -> control_pb2.Hello:
    """Returns the introduction.

    Raises:
        ModelRefused: The tokenizer is too large.
        SettingRefused: It does not fit into a frame for other reasons.
    """
    encoded = control_pb2.Hello(protocol_version=PROTOCOL_VERSION, model=_model(hello.model), pid=hello.pid)
    for timing in hello.calibration:
        _write_timing(encoded.calibration.add(), timing)
    if (num_bytes := encoded.ByteSize()) > MAX_FRAME_BYTES:
        raise SettingRefused(
            f"--model: got {num_bytes} bytes of tokenizer, template and names, allowed are {MAX_FRAME_BYTES}, which "
            "fit into a frame of the control channel"
        )
    return encoded


def _model(model: WorkerModel) -> control_pb2.WorkerModel:
    return control_pb2.WorkerModel(
        name=model.name,
        family=model.family,
        num_layers=model.num_layers,
        experts_by_layer=model.experts_by_layer,
        num_experts_per_token=model.num_experts_per_token,
        vocab_size=model.vocab_size,
        eos_token_ids=model.eos_token_ids,
        max_model_len=model.max_model_len,
        block_size=model.block_size,
        num_blocks=model.num_blocks,
        num_host_blocks=model.num_host_blocks,
        dtype=model.dtype,
        checkpoint_dtype=model.checkpoint_dtype,
        dtype_reason=model.dtype_reason,
        quantization=model.quantization,
        device=model.device,
        **tokenizer_fields(model.tokenizer_json),
        chat_template=model.chat_template,
        special_tokens=model.special_tokens,
        default_sampling=inference_pb2.SamplingParams(**asdict(model.sampling)),
        other_names=model.other_names,
        block_bytes=model.block_bytes,
        host_block_bytes=model.host_block_bytes,
        state_bytes=model.state_bytes,
        num_states=model.num_states,
        num_disk_blocks=model.num_disk_blocks,
        no_sharing_reason=model.no_sharing_reason,
        no_structure_reason=model.no_structure_reason,
    )


def _write_timing(target: control_pb2.WorkTiming, timing: WorkTiming) -> None:
    for name in _TIMING_FIELDS:
        setattr(target, name, getattr(timing, name))
