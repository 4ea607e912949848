"""Begins iterations and ends them: members out of the queues into a batch, and back with a token each, or out for good.

Owns the batches under way. Knows no time: when an iteration is begun, and how its batch goes on, is decided elsewhere.
"""

from itertools import count

from scheduler_svc.core.accounts import Accounts
from scheduler_svc.core.cache.memory import Memory
from scheduler_svc.core.composer import Composer
from scheduler_svc.core.lives import Lives
from scheduler_svc.core.policies import BatchPlan
from scheduler_svc.core.room import Room
from scheduler_svc.core.state.batch import Batch, Member
from scheduler_svc.core.state.commands import BatchItem, Command, DropBatch, StartBatch
from scheduler_svc.core.state.ids import BatchId, SeqId
from scheduler_svc.core.state.prompt_scores import PromptScores
from scheduler_svc.core.state.results import FailureOutput, Output, PromptOutput, SampledToken, SequenceError
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, Sequence, SequenceState
from scheduler_svc.core.workload import Workload

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT


class Iterations:
    """The iterations of one life of one worker.

    Args:
        work: The queues, the live sequences and the batches under way, which change here.
        memory: Is told of what iterations compute.
        lives: Has sequences go on or end.
        room: Gives up the memory of those who are computed again.
        composer: Chooses members.
        accounts: Counts what comes of it.
        outbox: Where commands to the worker go, in order.
    """

    def __init__(
        self,
        work: Workload,
        memory: Memory,
        lives: Lives,
        room: Room,
        composer: Composer,
        accounts: Accounts,
        outbox: list[Command],
    ) -> None:
        self._work = work
        self._memory = memory
        self._lives = lives
        self._room = room
        self._composer = composer
        self._accounts = accounts
        self._counts = accounts.counters.classes
        self._outbox = outbox
        self._batch_ids = count(1)

    # ---- iterations begin

    def form(self, plan: BatchPlan) -> Batch | None:
        """Begins an iteration as the plan says, ahead of those that stand; returns None if nobody can run now."""
        # What has to move for them is in the outbox before what needs the room.
        members = self._composer.compose(plan, self._work.outlook)
        if not members:
            return None
        batch = self._begin(members)
        for passed in self._work.of_class(LS) if batch.request_class is LS else ():
            passed.num_passed += passed is not batch
        return batch

    def form_sequel(self, batch: Batch, plan: BatchPlan) -> Batch | None:
        """Begins the iteration after a batch's, before what that one samples is known; None where that can't be."""
        members = self._composer.compose_sequel(batch, plan, self._work.outlook)
        if not members:
            return None
        batch.sequel = self._begin(members)
        return batch.sequel

    def _begin(self, members: list[Member]) -> Batch:
        is_ls = any(member.sequence.effective_class is LS for member in members)
        batch = Batch(BatchId(next(self._batch_ids)), LS if is_ls else BE, members, self._work.planner.end)
        for member in members:
            member.sequence.rides = member.sequence.effective_class is not batch.request_class
        self._accounts.iteration_begun(batch)
        self._work.batches.append(batch)
        self._announce(batch)
        return batch

    def _announce(self, batch: Batch) -> None:
        """Tells the worker of a batch, and of those of its members that it does not know."""
        for member in batch.members:
            self._lives.announce(member.sequence)
            for other in member.also_sampled:
                self._lives.announce_anew(other)
        items = tuple(map(_item, batch.members))
        self._outbox.append(StartBatch(batch.batch_id, batch.request_class, items))

    # ---- iterations end

    def end(
        self, batch: Batch, tokens: dict[SeqId, SampledToken], scores: dict[SeqId, PromptScores], now_s: float
    ) -> list[Output]:
        """Puts the members back into their queues, each with its new token, or ends them."""
        self._work.batches.remove(batch)
        self._accounts.iteration_ended(batch)
        outputs: list[Output] = []
        for member in batch.members:
            sequence = member.sequence
            sequence.num_computed_tokens += member.num_tokens
            self._memory.computed(sequence)
            if not sequence.output_token_ids:
                self._counts[sequence.request_class].num_prompt_tokens += member.num_tokens
            if member.num_scored or sequence.is_computed_whole:
                outputs += self._chunk_ended(sequence, scores.get(sequence.seq_id), now_s)
            if member.samples and sequence.state is not SequenceState.FINISHED:
                outputs += sequence.kin.take(sequence, tokens, now_s, self._lives)
            if sequence.state is not SequenceState.IN_BATCH:
                continue  # it ended, is held, or goes on already
            if not batch.sequel or not batch.sequel.holds(sequence):  # else it is in its next iteration already
                self._lives.release(sequence)
        return outputs

    def _chunk_ended(self, sequence: Sequence, scores: PromptScores | None, now_s: float) -> list[Output]:
        """Takes in how probable tokens of a prompt are, if asked for; ends a sequence that generates nothing."""
        # What another worker told already comes again where that was lost, and its prompt is computed anew.
        new = scores.since(sequence.scored_up_to) if scores is not None else None
        if new and new.first_position == sequence.scored_up_to:
            sequence.scored_up_to = new.stop
        if sequence.num_computed_tokens + 1 > sequence.scored_up_to and sequence.is_scored:
            self._lives.end(sequence)
            return [FailureOutput(sequence.seq_id, "the worker did not tell how probable the prompt's tokens are")]
        if not sequence.is_computed_whole:
            return [PromptOutput(sequence.seq_id, new)] if new else []
        self._lives.finish(sequence, now_s)
        return [PromptOutput(sequence.seq_id, new or None, FinishReason.LENGTH, sequence.usage(now_s))]

    def fail(self, batch_id: BatchId, message: str) -> list[Output]:
        """Ends a batch and all of its sequences; an unknown batch changes nothing."""
        failed = next((batch for batch in self._work.batches if batch.batch_id == batch_id), None)
        if failed is None:
            return []
        self._work.batches.remove(failed)
        self._outbox.append(DropBatch(batch_id))
        requests = {sequence.seq_id: sequence for sequence in map(_request_of, failed.members)}
        for member in failed.members:
            self._memory.distrust(member.sequence)
        for sequence in requests.values():
            self._lives.end(sequence)
        return [FailureOutput(seq_id, message) for seq_id in requests]

    # ---- sequences and batches leave

    def fail_sequence(self, error: SequenceError) -> list[Output]:
        """Takes in that the worker left a sequence out; its batches go on without it. An unknown one changes nothing.

        It ends, or is computed again where nothing but its cache is lost.
        """
        sequence = self._work.sequences.get(error.seq_id)
        if sequence is None:
            return []
        if error.cache_is_lost:
            self._memory.distrust(sequence)  # what it was to be restored to may not hold it
            self._room.start_over(sequence)
            return []
        self._memory.distrust(sequence)
        request = sequence.kin.request_of(sequence)
        self._lives.end(request)
        return [FailureOutput(request.seq_id, error.message, error.rules_leave_nothing)]

    def drop_if_empty(self, batch: Batch) -> None:
        """Drops a batch that nobody is left in, unless its end has been sent: then that is all there is to wait for."""
        if self._work.discard_if_empty(batch):
            self._outbox.append(DropBatch(batch.batch_id))


def _item(member: Member) -> BatchItem:
    sequence, num_tokens, start, samples, new_block_ids, num_scored, others = member
    token_ids = sequence.token_ids(start, start + num_tokens)  # in a sequel empty: it is being sampled
    scored = sequence.prompt_token_ids[start + 1 : start + 1 + num_scored] if num_scored else ()
    also_sampled = tuple(other.seq_id for other in others)
    return BatchItem(sequence.seq_id, num_tokens, token_ids, start, new_block_ids, samples, scored, also_sampled)


def _request_of(member: Member) -> Sequence:
    return member.sequence.kin.request_of(member.sequence)
