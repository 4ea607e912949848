"""Carries out the scheduler's commands on one model: owns the sequences, the batches and the cache that they live in.

Every command is checked in full before anything changes. No threads, no sockets, no protobuf: all methods are called on
one thread under one torch.inference_mode().
"""

import logging
from collections import abc
from contextlib import contextmanager
from dataclasses import replace
from math import inf

import torch

from gpu_worker.cache.compressed import Form
from gpu_worker.cache.disk_store import DiskStore
from gpu_worker.cache.span import Span
from gpu_worker.cache.unified import Layout, UnifiedDynamicCache
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
from gpu_worker.contract.commands import AddSequence, BatchItem, Tier
from gpu_worker.contract.executor import GoesOn
from gpu_worker.contract.integrity import check_members, integrity_report
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.contract.results import AdvanceOutcome, BatchError, IntegrityReport
from gpu_worker.cursor import Cursor
from gpu_worker.errors import CacheLost
from gpu_worker.execution.moves import Moves
from gpu_worker.execution.pass_maker import PassMaker
from gpu_worker.execution.sequences import Batch, Member, Sequence
from gpu_worker.execution.stepper import Step
from gpu_worker.machine.clock import clock_of
from gpu_worker.model.loader import LoadedModel, ModelFacts
from gpu_worker.replay.recording import Recording
from gpu_worker.sampling.guide import Guides
from gpu_worker.sampling.scoring import Scoring

logger = logging.getLogger(__name__)

# Up to here reading the experts' weights takes longer than using them, and a layer takes no longer than one.
_FEW_TOKENS = 128


class Runner:
    """The model side of the worker.

    Args:
        loaded: The model.
        num_blocks: Cache blocks on the device, with ids 0 .. num_blocks - 1.
        block_size: Tokens in one block.
        num_host_blocks: Blocks' worth of host memory for offloaded sequences.
        layout: How the cache's rows lie; None is what suits the device. In pages batches may
            take whole layers as one unit.
        run_ahead_ms: Longest work that a device may have before it that can't be stopped any more; nothing to a CPU.
        disk: Where sequences may be offloaded to besides the host, a block in each slot; None: nowhere.
        form: How rows lie off the device; None is as they were computed.

    All commands raise CommandRefused, with nothing changed, when they name something unknown
    or contradict what is held here.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        num_blocks: int,
        block_size: int,
        num_host_blocks: int,
        *,
        layout: Layout | None = None,
        run_ahead_ms: float = 1.0,
        disk: DiskStore | None = None,
        form: Form | None = None,
    ) -> None:
        self._loaded = loaded
        device = torch.device(loaded.facts.device)
        self._sequences: dict[int, Sequence] = {}
        self._batches: dict[int, Batch] = {}
        self._failed_batch_ids: set[int] = set()  # named by commands that were on their way, until they are dropped
        self._clock = clock_of(device, run_ahead_ms)
        blocks = BlockLedger(num_blocks, block_size, num_host_blocks, disk.num_slots if disk else 0)
        facts = loaded.facts
        limits = ModelLimits(facts.experts_by_layer, facts.vocab_size, facts.max_model_len)
        self._known = Known(limits, blocks, self._sequences, self._batches, self._failed_batch_ids)
        self.cache = UnifiedDynamicCache(blocks, device, layout, disk, form)
        self.guides = Guides(facts.tokenizer.tokenizer_json, facts.vocab_size, facts.eos_token_ids)
        self._moves = Moves(self.cache)
        self._passes = PassMaker(loaded, self.cache, self._clock)

    def record_decodes(self, recordings: abc.Sequence[Recording], expert_share: float) -> None:
        """Has decodes replayed from now on where one of the recordings, which rise in rows, is free.

        Args:
            recordings: Recordings over this runner's cache.
            expert_share: Share of a layer's time that experts take.
        """
        self._passes.replay(recordings, expert_share)

    @property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return self._loaded.facts

    # ---- sequences

    def add_sequence(self, add: AddSequence) -> None:
        """Makes a sequence known, with no cache but the rows of blocks that it shares."""
        check_add(self._known, add)
        table = self.cache.new_table(add.seq_id)
        self.cache.share(table, add.shared_block_ids)
        self._sequences[add.seq_id] = Sequence.of(add, table, self.guides, self.cache.device)

    def fork_sequence(self, seq_id: int, parent_seq_id: int, new_block_ids: abc.Sequence[int]) -> None:
        """Has a sequence that holds nothing begin where another stands, to whose blocks neither writes from now on.

        Args:
            seq_id: The sequence; the tokens that it has, and how it samples on, are its own.
            parent_seq_id: The other, which is in no suspended batch, and not offloaded.
            new_block_ids: A free block for the rows in the other's last one, if that is not full; else none.
        """
        child, parent = check_fork(self._known, seq_id, parent_seq_id, new_block_ids)
        self.cache.fork(child.table, parent.table, new_block_ids)

    def drop_sequence(self, seq_id: int) -> None:
        """Forgets a sequence and frees its cache. A suspended batch that holds it goes on without it."""
        sequence = self._known.sequence(seq_id)
        if sequence.batch_id is not None:
            batch = self._batches[sequence.batch_id]
            member = next(member for member in batch.members if member.sequence is sequence)
            batch.forward_pass.drop(member.span)  # before its blocks are free: the next command may give them away
        self.cache.forget(sequence.table)
        sequence.is_dropped = True
        del self._sequences[seq_id]

    def offload_sequence(self, seq_id: int, tier: Tier = Tier.HOST) -> None:
        """Moves a sequence's cache off the device, or on to disk; a suspended batch with it waits for restore.

        Raises:
            CacheLost: That went wrong. The sequence is forgotten as when it is dropped.
        """
        table = self._known.sequence(seq_id).table
        with self._forgets_what_is_lost():
            self._moves.offload(table, tier)

    def restore_sequence(self, seq_id: int, block_ids: abc.Sequence[int], num_shared_blocks: int = 0) -> None:
        """Moves an offloaded sequence's cache into as many blocks as it had, of which the first few hold it already.

        Raises:
            CacheLost: That went wrong. The sequence is forgotten as when it is dropped.
        """
        table = check_restore(self._known, seq_id, block_ids, num_shared_blocks).table
        with self._forgets_what_is_lost():
            self._moves.restore(table, block_ids, num_shared_blocks)

    # ---- batches

    def start_batch(self, batch_id: int, items: abc.Sequence[BatchItem]) -> None:
        """Begins an iteration, which then stands before layer 0."""
        members: list[Member] = []
        tokens: list[int] = []
        start = 0
        for sequence, item in zip(check_start(self._known, batch_id, items), items, strict=True):
            self.cache.extend(sequence.table, item.new_block_ids)
            sequence.table.begin(item.first_position, item.num_tokens)
            sequence.batch_id = batch_id if sequence.finish_reason is None else None
            span = Span(sequence.table, start, item.num_tokens, item.first_position)
            also_sampled = [self._sequences[seq_id] for seq_id in item.also_sampled_ids]
            members.append(Member(sequence, span, item.samples, item.scored_token_ids, also_sampled))
            own = tokens_of(item, sequence)
            sequence.begins_with(own)
            tokens += own
            start += item.num_tokens
        wishes = [member.wish for member in members if member.scored_token_ids]
        scoring = Scoring(wishes, self.facts.vocab_size) if wishes else None
        forward_pass = self._passes.make(members, tokens, scoring)
        batch = self._batches[batch_id] = Batch(batch_id, members, forward_pass, scoring)
        for member in members:
            if member.sequence.finish_reason is not None:  # it ended before the scheduler could know
                batch.forward_pass.drop(member.span)

    def drop_batch(self, batch_id: int) -> None:
        """Forgets a suspended batch. Its sequences stay with their blocks and what was cached before the batch."""
        if batch_id in self._failed_batch_ids:
            self._failed_batch_ids.remove(batch_id)
        else:
            self._forget_batch(self._known.batch(batch_id))

    def advance(
        self,
        batch_ids: abc.Sequence[int],
        until: Cursor,
        goes_on: GoesOn = lambda cursor: True,
        *,
        stops_inside: bool = True,
    ) -> AdvanceOutcome:
        """Runs batches up to a cursor, the one that is behind first, jointly where they stand together.

        A batch that failed before is passed over until it is dropped, so that the others of the command go on.

        Args:
            batch_ids: The batches, each once.
            until: Where to stop; (num_layers, ATTENTION, 0) ends the iteration and samples.
            goes_on: Asked with the cursor before each unit of work, and inside attention stages with where they end;
                False leaves the batches standing there.
            stops_inside: Whether it may say so between the experts of a layer, and wants to be
                asked there if they take long.
        """
        batches = check_advance(self._known, batch_ids, until)
        takes_whole = self.cache.layout is Layout.PAGES
        whole_up_to = 0 if not takes_whole else _FEW_TOKENS if stops_inside else inf
        step = Step(
            batches,
            until,
            self._loaded.expert_weights,
            goes_on,
            self._clock,
            whole_up_to,
            self.facts.vocab_size,
        )
        reached = step.run()
        for batch in step.finished:
            for member in batch.live_members:
                member.sequence.table.commit()
            self._forget_batch(batch)  # gives up rows that are not committed
        self._moves.tell(step.timing)
        errors = [self._fail(batch, error) for batch, error in step.failures]
        return AdvanceOutcome(
            reached, step.tokens, errors, step.sequence_errors, step.timing, self._suspended_bytes, step.scored
        )

    def abandon(self, batch_ids: abc.Sequence[int], message: str) -> list[BatchError]:
        """Forgets the batches of an advance that raised, with what their sequences cached; returns each as failed."""
        self._failed_batch_ids.difference_update(batch_ids)
        return [
            BatchError(batch_id, self._void(batch) if (batch := self._batches.get(batch_id)) else (), message)
            for batch_id in batch_ids
        ]

    def integrity(self, check_id: int) -> IntegrityReport:
        """Says what is held, and what of it contradicts itself; the id comes back in the answer."""
        return replace(
            integrity_report(check_id, self._check_integrity, self.cache.blocks, self._sequences),
            device_bytes=self.cache.device_bytes,
            state_bytes=self.cache.state_bytes,
            suspended_bytes=self._suspended_bytes,
        )

    def forget_all(self) -> None:
        """Forgets every sequence and batch: another epoch may give the same ids again."""
        for batch in list(self._batches.values()):
            self._forget_batch(batch)
        for seq_id in list(self._sequences):
            self.drop_sequence(seq_id)
        self._failed_batch_ids.clear()

    # ---- books

    def _check_integrity(self) -> None:
        self.cache.check_integrity()
        check_members(self._sequences, self._batches)

    @property
    def _suspended_bytes(self) -> int:
        return sum(batch.forward_pass.suspended_bytes for batch in self._batches.values())

    # ---- changes

    @contextmanager
    def _forgets_what_is_lost(self) -> abc.Iterator[None]:
        try:
            yield
        except CacheLost as lost:
            self.drop_sequence(lost.seq_id)
            raise

    def _forget_batch(self, batch: Batch) -> None:
        batch.forward_pass.close()
        for member in batch.live_members:
            member.sequence.batch_id = None
            member.sequence.table.abandon()
        del self._batches[batch.batch_id]

    def _fail(self, batch: Batch, error: Exception) -> BatchError:
        """Forgets a batch whose pass raised, all but its id: commands on their way may name it."""
        logger.error("batch %d failed", batch.batch_id, exc_info=error)
        self._failed_batch_ids.add(batch.batch_id)
        return BatchError(batch.batch_id, self._void(batch), f"{type(error).__name__}: {error}")

    def _void(self, batch: Batch) -> tuple[int, ...]:
        """Forgets a batch, and what is cached for its sequences; returns those."""
        self._forget_batch(batch)
        sequences = [member.sequence for member in batch.live_members]
        for sequence in sequences:
            sequence.table.void()
        return tuple(sequence.seq_id for sequence in sequences)
