"""Carries out the scheduler's commands without a model: the control protocol's contract in full, and the time that a table says.

Every command is checked as the real runner checks it, and refused in the same words; nothing has changed then. Knows no
tensor, and no socket: the same engine and link run it. It speaks protobuf directly, for nothing else stands behind it.
"""

import math
from collections.abc import Callable, Sequence

from qllm.cost_table import CostTable
from qllm.v1 import control_pb2, inference_pb2

from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused, SequenceRefused
from gpu_worker.simulated.batch import Part, Routing, SimulatedBatch, SimulatedSequence
from gpu_worker.simulated.step import Pace, SimulatedStep

_STAGES = {control_pb2.STAGE_ATTENTION: Stage.ATTENTION, control_pb2.STAGE_EXPERTS: Stage.EXPERTS}
_STAGES_BACK = {stage: value for value, stage in _STAGES.items()}
_GOES_ON = inference_pb2.FINISH_REASON_UNSPECIFIED


class SimulatedExecutor:
    """Carries commands out on nothing.

    Args:
        costs: The simulated model.
        block_size: Tokens in one cache block.
        max_model_len: Longest prompt plus output in tokens.
        vocab_size: Token ids are below this.
        vocabulary: Tokens that are sampled, all alike; never empty.
        pace: Takes the time.
    """

    def __init__(
        self,
        costs: CostTable,
        *,
        block_size: int,
        num_blocks: int,
        max_model_len: int,
        vocab_size: int,
        vocabulary: Sequence[int],
        pace: Pace | None = None,
    ) -> None:
        self._costs = costs
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._vocabulary = vocabulary
        self._logprob = -math.log(len(vocabulary))
        self._pace = pace or Pace()
        self._routing = Routing(costs.num_layers, costs.num_experts, costs.num_experts_per_token)
        self._sequences: dict[int, SimulatedSequence] = {}
        self._batches: dict[int, SimulatedBatch] = {}
        self.blocks = BlockLedger(num_blocks, block_size, costs.num_host_blocks)

    def apply(self, command: control_pb2.StepCommand) -> None:
        """Carries out a command other than Advance; raises CommandRefused, and then nothing has changed."""
        match command.WhichOneof("command"):
            case "start_batch":
                self._start_batch(command.start_batch)
            case "add_sequence":
                self._add_sequence(command.add_sequence)
            case "drop_sequence":
                self._drop_sequence(self._sequence(command.drop_sequence.seq_id))
            case "offload_sequence":
                self.blocks.offload(self._sequence(command.offload_sequence.seq_id).seq_id)
            case "restore_sequence":
                restore = command.restore_sequence
                self.blocks.restore(self._sequence(restore.seq_id).seq_id, restore.block_ids)
            case "drop_batch":
                self._forget_batch(self._batch(command.drop_batch.batch_id))
            case kind:
                raise CommandRefused(f"command {kind} is not known to this worker")

    def advance(self, advance: control_pb2.Advance, goes_on: Callable[[Cursor], bool]) -> control_pb2.StepResult:
        """Runs batches on, asking `goes_on` before each unit of work; raises CommandRefused, and then nothing has run."""
        batches, until = self._check_advance(advance)
        step = SimulatedStep(self._costs, self._routing, batches, until, goes_on, self._pace)
        layer, stage, expert = step.run()
        reached = control_pb2.Cursor(layer=layer, stage=_STAGES_BACK[stage], expert=expert)
        result = control_pb2.StepResult(reached=reached, timing=step.timing)
        for batch in step.finished:
            self._finish(batch, result)
        return result

    def abandon(self, advance: control_pb2.Advance, message: str) -> control_pb2.StepResult:
        """Forgets the batches of an advance that raised, and reports each as failed."""
        result = control_pb2.StepResult(reached=advance.until)
        for batch_id in advance.batch_ids:
            batch = self._batches.get(batch_id)
            result.batch_errors.add(batch_id=batch_id, seq_ids=batch.seq_ids if batch else (), message=message)
            if batch:
                self._forget_batch(batch)
        return result

    def forget_all(self) -> None:
        """Forgets every sequence and batch."""
        for seq_id in self._sequences:
            self.blocks.forget(seq_id)
        self._sequences.clear()
        self._batches.clear()

    # ---- sequences

    def _add_sequence(self, add: control_pb2.AddSequence) -> None:
        if add.seq_id in self._sequences:
            raise CommandRefused(f"sequence {add.seq_id} is known already")
        self._check_vocabulary(add.stop_token_ids)
        self._sequences[add.seq_id] = SimulatedSequence(
            seq_id=add.seq_id,
            first_context=add.sampling.seed & 0xFFFFFFFF if add.sampling.temperature else 0,
            stop_ids=frozenset(add.stop_token_ids),
            max_tokens=add.max_tokens,
            min_tokens=add.min_tokens,
            num_output_tokens=add.num_output_tokens,
        )

    def _drop_sequence(self, sequence: SimulatedSequence) -> None:
        """Forgets a sequence; a batch that holds it goes on without it."""
        batch = sequence.batch
        if batch is not None:
            batch.parts = [part for part in batch.parts if part.sequence is not sequence]
            batch.count()
            if not batch.parts:
                batch.cursor = self._routing.end
            elif batch.cursor.stage is Stage.EXPERTS:
                batch.cursor = self._routing.next_with_tokens(batch, batch.cursor.layer, batch.cursor.expert)
        self.blocks.forget(sequence.seq_id)
        del self._sequences[sequence.seq_id]

    # ---- batches

    def _start_batch(self, start: control_pb2.StartBatch) -> None:
        named = self._check_start(start)
        for part, new_block_ids in named:
            if new_block_ids:
                self.blocks.extend(part.sequence.seq_id, new_block_ids)
        # Those that ended before the scheduler could know are passed over.
        parts = [part for part, _ in named if part.sequence.finish_reason == _GOES_ON]
        num_rows = sum(part.samples for part, _ in named)
        batch = SimulatedBatch(start.batch_id, [part.sequence.seq_id for part, _ in named], parts, max(1, num_rows))
        if not parts:
            batch.cursor = self._routing.end
        for part in parts:
            part.sequence.batch = batch
        self._batches[batch.batch_id] = batch

    def _finish(self, batch: SimulatedBatch, result: control_pb2.StepResult) -> None:
        """Takes what an iteration computed into the caches, and samples."""
        for part in batch.parts:
            sequence = part.sequence
            sequence.compute(part.token_ids)
            if part.samples:
                token_id = sequence.sample(self._vocabulary)
                reason = sequence.finish_reason
                result.tokens.add(
                    seq_id=sequence.seq_id, token_id=token_id, logprob=self._logprob, finish_reason=reason
                )
        self._forget_batch(batch)

    def _forget_batch(self, batch: SimulatedBatch) -> None:
        for part in batch.parts:
            part.sequence.batch = None
        del self._batches[batch.batch_id]

    # ---- checks

    def _sequence(self, seq_id: int) -> SimulatedSequence:
        if seq_id not in self._sequences:
            raise CommandRefused(f"sequence {seq_id} is not known")
        return self._sequences[seq_id]

    def _batch(self, batch_id: int) -> SimulatedBatch:
        if batch_id not in self._batches:
            raise CommandRefused(f"batch {batch_id} is not known")
        return self._batches[batch_id]

    def _check_start(self, start: control_pb2.StartBatch) -> list[tuple[Part, list[int]]]:
        """Returns each sequence's part with its new blocks."""
        if start.batch_id in self._batches:
            raise CommandRefused(f"batch {start.batch_id} is known already")
        if not start.items:
            raise CommandRefused(f"batch {start.batch_id} has no sequences")
        if len({item.seq_id for item in start.items}) != len(start.items):
            raise CommandRefused(f"batch {start.batch_id} names a sequence twice")
        parts: list[tuple[Part, list[int]]] = []
        for item in start.items:
            try:
                parts.append(self._check_item(item))
            except CommandRefused as refusal:
                raise SequenceRefused(item.seq_id, str(refusal)) from None
        self.blocks.check_free([block_id for item in start.items for block_id in item.new_block_ids])
        return parts

    def _check_item(self, item: control_pb2.BatchItem) -> tuple[Part, list[int]]:
        sequence = self._sequence(item.seq_id)
        first_position, new_block_ids = item.first_position, list(item.new_block_ids)
        if sequence.batch is not None:
            raise CommandRefused(f"sequence {sequence.seq_id} is in batch {sequence.batch.batch_id} already")
        if sequence.seq_id in self.blocks.offloaded_seq_ids:
            raise CommandRefused(f"sequence {sequence.seq_id} is offloaded")
        if first_position != sequence.num_cached:
            raise CommandRefused(
                f"sequence {sequence.seq_id} has {sequence.num_cached} tokens cached, not {first_position}"
            )
        token_ids = self._checked_tokens(item, sequence)
        self.blocks.check_free(new_block_ids)
        length = first_position + len(token_ids)
        if length > self._max_model_len:
            raise CommandRefused(
                f"sequence {sequence.seq_id} would have {length} tokens, at most {self._max_model_len} fit"
            )
        room = (len(self.blocks.held_by(sequence.seq_id)) + len(new_block_ids)) * self.blocks.block_size
        if length > room:
            raise CommandRefused(
                f"sequence {sequence.seq_id} would have {length} tokens, its blocks have room for {room}"
            )
        return Part(sequence, token_ids, item.samples), new_block_ids

    def _checked_tokens(self, item: control_pb2.BatchItem, sequence: SimulatedSequence) -> Sequence[int]:
        """Returns the tokens that the item is about."""
        num_tokens, token_ids = item.num_tokens, list(item.token_ids)
        if num_tokens < 1:
            raise CommandRefused(f"sequence {sequence.seq_id} has {num_tokens} tokens to compute, at least 1 is needed")
        if not token_ids and num_tokens == 1 and sequence.last_token is not None:
            return (sequence.last_token,)
        if not token_ids:
            raise CommandRefused(
                f"sequence {sequence.seq_id} has no token ids, and none that was sampled here stands for them"
            )
        if len(token_ids) != num_tokens:
            raise CommandRefused(f"sequence {sequence.seq_id} has {len(token_ids)} token ids for {num_tokens} tokens")
        self._check_vocabulary(token_ids)
        return token_ids

    def _check_vocabulary(self, token_ids: Sequence[int]) -> None:
        size = self._vocab_size
        outside = next((token_id for token_id in token_ids if not 0 <= token_id < size), None)
        if outside is not None:
            raise CommandRefused(f"token {outside} is outside of the vocabulary of {size}")

    def _check_advance(self, advance: control_pb2.Advance) -> tuple[list[SimulatedBatch], Cursor]:
        """Returns the batches and where they stop."""
        stage = _STAGES.get(advance.until.stage)
        if stage is None:
            raise CommandRefused(f"until.stage: got {advance.until.stage}, allowed are {sorted(_STAGES)}")
        until = Cursor(advance.until.layer, stage, advance.until.expert)
        batch_ids = advance.batch_ids
        if not batch_ids or len(set(batch_ids)) != len(batch_ids):
            raise CommandRefused(f"batches {list(batch_ids)} must be at least one, each once")
        most_experts = self._costs.num_experts if stage is Stage.EXPERTS else 0
        if not (until <= self._routing.end and until.expert <= most_experts):
            layers = f"{self._costs.num_layers} layers of {self._costs.num_experts} experts"
            raise CommandRefused(f"{until} is no place in a model with {layers}")
        batches = [self._batch(batch_id) for batch_id in batch_ids]
        for part in (part for batch in batches for part in batch.parts):
            if part.sequence.seq_id in self.blocks.offloaded_seq_ids:
                seq_id = part.sequence.seq_id
                raise SequenceRefused(seq_id, f"sequence {seq_id} is offloaded, its batch can't go on")
        return batches, until
