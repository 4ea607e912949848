"""Translates commands of the control channel into calls on the Runner, and its outcomes into results.

Knows the wire format and the Runner's interface, no socket and no clock. It remembers which sequences and batches it made
known, so that all can be forgotten when an epoch ends and a batch that failed can be reported with its sequences.
Source: protos/qllm/v1/control.proto.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import fields

from qllm.v1 import control_pb2, inference_pb2

from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused
from gpu_worker.execution.runner import Runner
from gpu_worker.execution.sampler import Sampling
from gpu_worker.execution.sequences import AdvanceOutcome, BatchItem, FinishReason, WorkTiming

_STAGES = {control_pb2.STAGE_ATTENTION: Stage.ATTENTION, control_pb2.STAGE_EXPERTS: Stage.EXPERTS}
_FINISH_REASONS = {
    None: inference_pb2.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: inference_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
}
_STAGES_BACK = {stage: value for value, stage in _STAGES.items()}
_TIMING_FIELDS = tuple(field.name for field in fields(WorkTiming))


class RunnerExecutor:
    """Carries commands out on a Runner.

    Args:
        runner: The model side.
        num_layers: The model's decoder layers; a batch that reaches this layer is over.
    """

    def __init__(self, runner: Runner, num_layers: int) -> None:
        self._runner = runner
        self._num_layers = num_layers
        self._known_seq_ids: set[int] = set()
        self._seq_ids_by_batch: dict[int, tuple[int, ...]] = {}

    def apply(self, command: control_pb2.StepCommand) -> None:
        """Carries out a command other than Advance; raises CommandRefused, and then nothing has changed."""
        match command.WhichOneof("command"):
            case "start_batch":
                self._start_batch(command.start_batch)
            case "add_sequence":
                self._add_sequence(command.add_sequence)
            case "drop_sequence":
                self._runner.drop_sequence(command.drop_sequence.seq_id)
                self._known_seq_ids.discard(command.drop_sequence.seq_id)
            case "offload_sequence":
                self._runner.offload_sequence(command.offload_sequence.seq_id)
            case "restore_sequence":
                restore = command.restore_sequence
                self._runner.restore_sequence(restore.seq_id, list(restore.block_ids))
            case "drop_batch":
                self._runner.drop_batch(command.drop_batch.batch_id)
                self._seq_ids_by_batch.pop(command.drop_batch.batch_id, None)
            case kind:
                raise CommandRefused(f"command {kind} is not known to this worker")

    def _add_sequence(self, add: control_pb2.AddSequence) -> None:
        sampling = Sampling(
            temperature=add.sampling.temperature,
            top_k=add.sampling.top_k,
            top_p=add.sampling.top_p,
            min_p=add.sampling.min_p,
            seed=add.sampling.seed,
        )
        self._runner.add_sequence(
            add.seq_id, sampling, list(add.stop_token_ids), add.max_tokens, add.min_tokens, add.num_output_tokens
        )
        self._known_seq_ids.add(add.seq_id)

    def _start_batch(self, start: control_pb2.StartBatch) -> None:
        items = [
            BatchItem(
                seq_id=item.seq_id,
                num_tokens=item.num_tokens,
                token_ids=tuple(item.token_ids),
                first_position=item.first_position,
                new_block_ids=tuple(item.new_block_ids),
                samples=item.samples,
            )
            for item in start.items
        ]
        self._runner.start_batch(start.batch_id, items)
        self._seq_ids_by_batch[start.batch_id] = tuple(item.seq_id for item in items)

    def advance(self, advance: control_pb2.Advance, goes_on: Callable[[Cursor], bool]) -> control_pb2.StepResult:
        """Runs batches on, asking `goes_on` before each unit of work; raises CommandRefused, and then nothing has run."""
        stage = _STAGES.get(advance.until.stage)
        if stage is None:
            raise CommandRefused(f"until.stage: got {advance.until.stage}, allowed are {sorted(_STAGES)}")
        until = Cursor(advance.until.layer, stage, advance.until.expert)
        stops_inside = advance.preempt_at == control_pb2.PREEMPT_AT_EXPERT
        outcome = self._runner.advance(list(advance.batch_ids), until, goes_on, stops_inside=stops_inside)
        if outcome.reached.layer >= self._num_layers:
            self._forget_batches(advance.batch_ids)
        self._forget_batches(error.batch_id for error in outcome.batch_errors)
        return _result(outcome)

    def abandon(self, advance: control_pb2.Advance, message: str) -> control_pb2.StepResult:
        """Forgets the batches of an advance that raised, and reports each as failed."""
        result = control_pb2.StepResult(reached=advance.until)
        for batch_id in advance.batch_ids:
            seq_ids = self._seq_ids_by_batch.pop(batch_id, ())
            self._drop(self._runner.drop_batch, batch_id)
            result.batch_errors.add(batch_id=batch_id, seq_ids=seq_ids, message=message)
        return result

    def forget_all(self) -> None:
        """Forgets every sequence and batch."""
        for batch_id in self._seq_ids_by_batch:
            self._drop(self._runner.drop_batch, batch_id)
        for seq_id in self._known_seq_ids:
            self._drop(self._runner.drop_sequence, seq_id)
        self._seq_ids_by_batch.clear()
        self._known_seq_ids.clear()

    def _forget_batches(self, batch_ids: Iterable[int]) -> None:
        for batch_id in batch_ids:
            self._seq_ids_by_batch.pop(batch_id, None)

    @staticmethod
    def _drop(drop: Callable[[int], None], identity: int) -> None:
        with contextlib.suppress(CommandRefused):
            drop(identity)


def _result(outcome: AdvanceOutcome) -> control_pb2.StepResult:
    timing = {name: getattr(outcome.timing, name) for name in _TIMING_FIELDS}
    result = control_pb2.StepResult(timing=control_pb2.WorkTiming(**timing), suspended_bytes=outcome.suspended_bytes)
    layer, stage, expert = outcome.reached
    result.reached.layer, result.reached.stage, result.reached.expert = layer, _STAGES_BACK[stage], expert
    for token in outcome.tokens:
        finish_reason = _FINISH_REASONS[token.finish_reason]
        result.tokens.add(
            seq_id=token.seq_id, token_id=token.token_id, logprob=token.logprob, finish_reason=finish_reason
        )
    for error in outcome.batch_errors:
        result.batch_errors.add(batch_id=error.batch_id, seq_ids=error.seq_ids, message=error.message)
    for failed in outcome.sequence_errors:
        result.sequence_errors.add(seq_id=failed.seq_id, message=failed.message)
    return result
