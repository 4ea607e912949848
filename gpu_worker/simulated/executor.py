"""Carries out commands without a model: the control protocol's contract in full, and the time that a table says.

Commands are checked where the real runner's are, so they are refused in the same words. Knows no tensor, and no socket:
the same engine and link run it.
"""

import math
from collections.abc import Sequence

from qllm.cost_table import CostTable

from gpu_worker.contract.checks import (
    Known,
    ModelLimits,
    check_add,
    check_advance,
    check_fork,
    check_restore,
    check_start,
    tokens_of,
)
from gpu_worker.contract.commands import (
    AddSequence,
    Advance,
    BatchItem,
    Command,
    DropBatch,
    DropSequence,
    ForkSequence,
    OffloadSequence,
    RestoreSequence,
    StartBatch,
)
from gpu_worker.contract.executor import GoesOn
from gpu_worker.contract.integrity import check_members, integrity_report
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.contract.results import (
    AdvanceOutcome,
    BatchError,
    IntegrityReport,
    SampledToken,
    ScoredTokens,
    WorkTiming,
)
from gpu_worker.cursor import Stage
from gpu_worker.simulated.batch import Part, Routing, SimulatedBatch, SimulatedSequence
from gpu_worker.simulated.step import Pacer, SimulatedStep


class SimulatedExecutor:
    """Carries commands out on nothing.

    Args:
        costs: The simulated model.
        block_size: Tokens in one cache block.
        max_model_len: Longest prompt plus output in tokens.
        vocab_size: Token ids are below this.
        vocabulary: Tokens that are sampled, all alike; never empty.
        num_disk_blocks: Blocks' worth of disk.
        pacer: Takes the time.
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
        num_disk_blocks: int = 0,
        pacer: Pacer | None = None,
    ) -> None:
        self._costs = costs
        self._vocabulary = vocabulary
        self._logprob = -math.log(len(vocabulary))
        self._pacer = pacer or Pacer()
        self._routing = Routing(costs.num_layers, costs.num_experts, costs.num_experts_per_token)
        self._sequences: dict[int, SimulatedSequence] = {}
        self._batches: dict[int, SimulatedBatch] = {}
        self._untold = WorkTiming()  # of what was moved, which takes no time, since the last advance
        self._block_contexts: dict[int, int] = {}  # what each block that was filled stands for, whoever holds it
        self.blocks = BlockLedger(num_blocks, block_size, costs.num_host_blocks, num_disk_blocks)
        limits = ModelLimits((costs.num_experts,) * costs.num_layers, vocab_size, max_model_len)
        self._known = Known(limits, self.blocks, self._sequences, self._batches)

    def apply(self, command: Command) -> None:
        """Carries out a command other than Advance; raises CommandRefused, and then nothing has changed."""
        match command:
            case StartBatch(batch_id, items):
                self._start_batch(batch_id, items)
            case AddSequence():
                self._add_sequence(command)
            case DropSequence(seq_id):
                self._drop_sequence(self._known.sequence(seq_id))
            case ForkSequence():
                self._fork_sequence(command)
            case OffloadSequence(seq_id, tier):
                self.blocks.offload(self._known.sequence(seq_id).seq_id, tier)
                self._untold.num_offloaded_blocks += self.blocks.num_blocks_of(seq_id)
            case RestoreSequence():
                self._restore_sequence(command)
            case DropBatch(batch_id):
                self._forget_batch(self._known.batch(batch_id))

    def advance(self, advance: Advance, goes_on: GoesOn) -> AdvanceOutcome:
        """Runs batches on, asking `goes_on` before each unit; raises CommandRefused, and then nothing has run."""
        batches = check_advance(self._known, advance.batch_ids, advance.until)
        step = SimulatedStep(self._costs, self._routing, batches, advance.until, goes_on, self._pacer)
        reached = step.run()
        if self._untold.has_moves:
            step.timing.add(self._untold)
            self._untold = WorkTiming()
        tokens: list[SampledToken] = []
        scored: list[ScoredTokens] = []
        for batch in step.finished:
            scored += self._score(batch)
            tokens += self._finish(batch)
        return AdvanceOutcome(reached, tokens, timing=step.timing, scored=scored)

    def abandon(self, batch_ids: Sequence[int], message: str) -> list[BatchError]:
        """Forgets the batches of an advance that raised; returns each as failed."""
        return [BatchError(batch_id, self._void(batch_id), message) for batch_id in batch_ids]

    def check(self, check_id: int) -> IntegrityReport:
        """Says what is held, and what of it contradicts itself; there are no bytes."""
        return integrity_report(check_id, self._check_integrity, self.blocks, self._sequences)

    def forget_all(self) -> None:
        """Forgets every sequence and batch."""
        for seq_id in self._sequences:
            self.blocks.forget(seq_id)
        self._sequences.clear()
        self._batches.clear()
        self._block_contexts.clear()

    def _check_integrity(self) -> None:
        self.blocks.check_integrity()
        check_members(self._sequences, self._batches)

    # ---- sequences

    def _add_sequence(self, add: AddSequence) -> None:
        check_add(self._known, add)
        sequence = self._sequences[add.seq_id] = SimulatedSequence(
            seq_id=add.seq_id,
            seed=add.sampling.seed & 0xFFFFFFFF if add.sampling.temperature else 0,
            stop_ids=frozenset(add.stop_token_ids),
            max_tokens=add.max_tokens,
            min_tokens=add.min_tokens,
            num_output_tokens=add.num_output_tokens,
            num_candidates=add.sampling.num_candidates,
        )
        if add.shared_block_ids:
            self.blocks.share(add.seq_id, add.shared_block_ids)
            # What no sequence computed here is as good as any other context.
            contexts = [self._block_contexts.get(block_id, 0) for block_id in add.shared_block_ids]
            sequence.find(contexts, self.blocks.block_size)

    def _fork_sequence(self, fork: ForkSequence) -> None:
        child, parent = check_fork(self._known, fork.seq_id, fork.parent_seq_id, fork.new_block_ids)
        num_full = parent.num_cached // self.blocks.block_size
        self.blocks.share(child.seq_id, self.blocks.held_by(parent.seq_id)[:num_full])
        self.blocks.extend(child.seq_id, fork.new_block_ids)
        child.fork_from(parent)

    def _restore_sequence(self, restore: RestoreSequence) -> None:
        given = restore.seq_id, restore.block_ids, restore.num_shared_blocks
        sequence = check_restore(self._known, *given)
        self.blocks.restore(*given)
        self._untold.num_restored_blocks += len(restore.block_ids) - restore.num_shared_blocks
        self._note_contexts(sequence)

    def _note_contexts(self, sequence: SimulatedSequence, num_known: int = 0) -> None:
        """Notes what the full blocks of a sequence stand for, all but so many that are noted already."""
        contexts = sequence.block_contexts
        if num_known < len(contexts):
            block_ids = self.blocks.held_by(sequence.seq_id)[num_known : len(contexts)]
            self._block_contexts.update(zip(block_ids, contexts[num_known:], strict=True))

    def _drop_sequence(self, sequence: SimulatedSequence) -> None:
        """Forgets a sequence; a batch that holds it goes on without it."""
        if sequence.batch_id is not None:
            batch = self._batches[sequence.batch_id]
            batch.parts = [part for part in batch.parts if part.sequence is not sequence]
            batch.count()
            if not batch.parts:
                batch.cursor = self._routing.end
            elif batch.cursor.stage is Stage.EXPERTS:
                batch.cursor = self._routing.next_with_tokens(batch, batch.cursor.layer, batch.cursor.expert)
        self.blocks.forget(sequence.seq_id)
        sequence.is_dropped = True
        del self._sequences[sequence.seq_id]

    # ---- batches

    def _start_batch(self, batch_id: int, items: Sequence[BatchItem]) -> None:
        parts: list[Part] = []
        for sequence, item in zip(check_start(self._known, batch_id, items), items, strict=True):
            if item.new_block_ids:
                self.blocks.extend(sequence.seq_id, item.new_block_ids)
            if sequence.finish_reason is None:  # one that ended before the scheduler could know is passed over
                token_ids = tokens_of(item, sequence)
                also_sampled = [self._sequences[seq_id] for seq_id in item.also_sampled_ids]
                parts.append(Part(sequence, token_ids, item.samples, item.scored_token_ids, also_sampled))
                sequence.begins_with(token_ids)
                sequence.batch_id = batch_id
        num_rows = sum(item.samples + len(item.scored_token_ids) for item in items)
        batch = self._batches[batch_id] = SimulatedBatch(batch_id, parts, max(1, num_rows))
        if not parts:
            batch.cursor = self._routing.end

    def _score(self, batch: SimulatedBatch) -> list[ScoredTokens]:
        """Tells how probable the tokens of prompts are that an iteration is to score."""
        parts = [part for part in batch.parts if part.scored_token_ids]
        return [part.sequence.score(part.scored_token_ids, self._logprob) for part in parts]

    def _finish(self, batch: SimulatedBatch) -> list[SampledToken]:
        """Takes what an iteration computed into the caches, and samples."""
        self._forget_batch(batch)
        for part in batch.parts:
            num_known = len(part.sequence.block_contexts)
            part.sequence.compute(part.token_ids, self.blocks.block_size)
            self._note_contexts(part.sequence, num_known)
        pairs = [(part, sequence) for part in batch.parts for sequence in part.samplers]
        return [one.sample(self._vocabulary, self._logprob, part.sequence) for part, one in pairs]

    def _void(self, batch_id: int) -> tuple[int, ...]:
        """Forgets a batch, if it is known, and what is cached for its sequences; returns those."""
        batch = self._batches.get(batch_id)
        if batch is None:
            return ()
        self._forget_batch(batch)
        for part in batch.parts:
            part.sequence.void()
        return tuple(batch.live_seq_ids)

    def _forget_batch(self, batch: SimulatedBatch) -> None:
        for part in batch.parts:
            part.sequence.batch_id = None
        del self._batches[batch.batch_id]
