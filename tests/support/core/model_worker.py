"""The real worker's model side behind the real codecs, in virtual time; what it does is checked on the way."""

from dataclasses import asdict, replace

from qllm.v1 import control_pb2

from gpu_worker.cache.disk_store import DiskStore
from gpu_worker.channel.codec import decode_command
from gpu_worker.contract.commands import Advance as WorkerAdvance
from gpu_worker.contract.commands import Command as WorkerCommand
from gpu_worker.cursor import Cursor as WorkerCursor
from gpu_worker.cursor import Stage as WorkerStage
from gpu_worker.execution.executor import RunnerExecutor
from gpu_worker.execution.forgiving import ForgivingExecutor
from gpu_worker.execution.runner import Runner
from gpu_worker.model.loader import LoadedModel
from gpu_worker.startup.warmup import warm_up
from scheduler_svc.channel.codec import encode_command
from scheduler_svc.core.beams.search import Candidate
from scheduler_svc.core.state.commands import Advance, Command
from scheduler_svc.core.state.cursor import Cursor
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.prompt_scores import PromptScores, ScoredTokens
from scheduler_svc.core.state.results import SampledToken, SequenceError, StepResult, WorkerModel
from scheduler_svc.core.state.sequence import FinishReason
from tests.support.core.simulation import Costs, SimWorker


def model_of(loaded: LoadedModel, num_blocks: int, num_host_blocks: int, **more: int) -> WorkerModel:
    """Returns a real model in numbers, with blocks of four tokens."""
    facts = loaded.facts
    experts, chosen = facts.experts_by_layer, facts.num_experts_per_token
    return WorkerModel(experts, chosen, 4, num_blocks, num_host_blocks, 512, **more)


class ModelWorker(SimWorker):
    """Checks commands as the simulated worker does, takes its virtual times, and runs the real model."""

    def __init__(self, model: WorkerModel, costs: Costs, loaded: LoadedModel, disk: DiskStore | None = None) -> None:
        super().__init__(model, costs)
        self.runner = Runner(loaded, model.num_blocks, model.block_size, model.num_host_blocks, disk=disk)
        self._executor = ForgivingExecutor(RunnerExecutor(self.runner), model.num_layers)
        self._errors: list[SequenceError] = []

    @property
    def runner_block_bytes(self) -> int:
        """Bytes of one block of a model whose rows are K and V in every layer."""
        warm_up(self.runner, range(8))
        return self.runner.cache.host_block_bytes

    def apply(self, command: Command) -> None:
        super().apply(command)
        self._executor.apply(_decoded(command))

    def finish_advance(self, command: Advance, reached: Cursor) -> tuple[SampledToken, ...]:
        super().finish_advance(command, reached)
        layer, stage, expert = reached
        asked = WorkerAdvance(command.command_id, command.batch_ids, WorkerCursor(layer, WorkerStage(stage), expert))
        outcome = self._executor.advance(asked, lambda cursor: True)
        assert not outcome.batch_errors
        columns = [asdict(one) for one in outcome.scored]
        self.scored = [ScoredTokens(SeqId(one.pop("seq_id")), PromptScores(**one)) for one in columns]
        self._errors += [SequenceError(SeqId(e.seq_id), e.message, e.cache_is_lost) for e in outcome.sequence_errors]
        return tuple(
            SampledToken(
                SeqId(t.seq_id),
                t.token_id,
                t.logprob,
                t.finish_reason and FinishReason(t.finish_reason.value),
                candidates=None if t.candidates is None else tuple(Candidate(*one) for one in t.candidates),
            )
            for t in outcome.tokens
        )

    def complete(self) -> StepResult:
        result = super().complete()
        errors, self._errors = self._errors, []
        return replace(result, sequence_errors=tuple(errors))


def _decoded(command: Command) -> WorkerCommand:
    """Returns a command as it arrives at a worker."""
    step = control_pb2.ControlMessage.FromString(encode_command(1, command)).command
    decoded = decode_command(step)
    assert not isinstance(decoded, WorkerAdvance)
    return decoded
