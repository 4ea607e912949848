"""What happens to single sequences behind an iteration: they get a token, branch, are let run, or end.

Owns nothing; implements `Branching` for those who decide (`core.kinship`). Knows no time and no batches under way but
those that a sequence leaves.
"""

from scheduler_svc.core.accounts import Accounts
from scheduler_svc.core.cache.memory import Memory
from scheduler_svc.core.room import Room
from scheduler_svc.core.sessions import Programs
from scheduler_svc.core.state.commands import AddSequence, Command, DropBatch
from scheduler_svc.core.state.results import Output, SampledToken, TokenOutput
from scheduler_svc.core.state.sequence import FinishReason, Sequence, SequenceState
from scheduler_svc.core.workload import Workload


class Lives:
    """The sequences of one life of one worker.

    Args:
        work: The queues, and who is live.
        memory: Is told of what is given up.
        room: Gives up the memory of those who end, and has what branches begin.
        sessions: Says whether what an ended turn leaves is kept.
        accounts: Counts what comes of it.
        outbox: Where commands to the worker go, in order.
    """

    def __init__(
        self, work: Workload, memory: Memory, room: Room, sessions: Programs, accounts: Accounts, outbox: list[Command]
    ) -> None:
        self._work = work
        self._memory = memory
        self._room = room
        self._sessions = sessions
        self._accounts = accounts
        self._counts = accounts.counters.classes
        self._outbox = outbox

    # ---- they go on

    def append(self, sequence: Sequence, sampled: SampledToken, now_s: float) -> list[Output]:
        """Gives a sequence its next token, and ends it where that was the last one."""
        sequence.append(sampled.token_id, now_s)
        self._accounts.token_came(sequence, now_s)
        told = sequence.seq_id, sampled.token_id, sampled.logprob
        reason = sampled.finish_reason
        if reason is None and len(sequence.output_token_ids) >= sequence.stop.max_tokens:
            reason = FinishReason.LENGTH
        if reason is None:
            return [TokenOutput(*told, top=sampled.top)]
        self.finish(sequence, now_s)
        return [TokenOutput(*told, reason, sequence.usage(now_s), sampled.top)]

    def count_token(self, sequence: Sequence, now_s: float) -> None:
        """Counts a token that a sequence was given already."""
        self._accounts.token_came(sequence, now_s)

    def release(self, sequence: Sequence) -> None:
        """Lets a sequence run that is in no iteration."""
        sequence.state = SequenceState.QUEUED
        self._work.queues.of(sequence).push(sequence)

    def branch(self, parent: Sequence, child: Sequence) -> None:
        """Has a new sequence run that has all of its parent's tokens and one more."""
        self._work.sequences[child.seq_id] = child
        self._counts[child.request_class].num_generated_tokens += 1
        self.fork(parent, child)
        self.release(child)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Gives a sequence that holds nothing what its parent has computed; without room it computes that again."""
        if self._room.has_room_to_fork(parent):
            self.announce(child)
            self._room.fork(parent, child)
        else:
            self._room.forget(child)  # the worker is to know it anew, with whatever it is found to share

    def announce(self, sequence: Sequence) -> None:
        """Tells the worker of a sequence that it does not know."""
        # Not as soon as they are queued: a sequence that ends there costs the worker nothing.
        if not sequence.known_to_worker:
            # It begins with full blocks, if with any: what it has besides is new.
            num_shared = sequence.num_computed_tokens // self._work.block_size
            self._outbox.append(AddSequence.of(sequence, tuple(sequence.block_ids[:num_shared])))
            sequence.known_to_worker = True

    def announce_anew(self, sequence: Sequence) -> None:
        """Tells the worker of a sequence that holds nothing, as if it had not been told before.

        It may have sampled for it in an iteration that was given up since.
        """
        if sequence.known_to_worker:
            self._room.forget(sequence)
        self.announce(sequence)

    # ---- they end

    def finish(self, sequence: Sequence, now_s: float) -> None:
        """Ends a sequence whose answer is whole."""
        self._accounts.answer_ended(sequence)
        self.end(sequence, now_s)

    def end(self, sequence: Sequence, whole_at_s: float | None = None) -> None:
        """Takes a live sequence out of wherever it is, and gives up its memory, unless that is kept for a next turn.

        Args:
            sequence: It.
            whole_at_s: When its answer was whole; None: it is not.
        """
        emptied = self._work.take_out(sequence)
        sequence.state = SequenceState.FINISHED
        if not self._keeps(sequence, whole_at_s):
            self._room.forget(sequence)
        self._outbox += [DropBatch(batch.batch_id) for batch in emptied]
        del self._work.sequences[sequence.seq_id]
        counts = self._counts[sequence.request_class]
        counts.num_finished += 1
        counts.num_ended_tokens += len(sequence.output_token_ids)
        sequence.kin.leaves(sequence, self)

    def retire(self, sequence: Sequence) -> None:
        """Takes a sequence out that stands for no request, and of which nothing becomes."""
        self.give_up_cache(sequence)
        sequence.state = SequenceState.FINISHED
        del self._work.sequences[sequence.seq_id]

    def give_up_cache(self, sequence: Sequence) -> None:
        """Takes a sequence out of wherever it is, and gives up its memory; it stays live."""
        emptied = self._work.take_out(sequence)
        sequence.state = SequenceState.HELD
        self._room.forget(sequence)
        self._outbox += [DropBatch(batch.batch_id) for batch in emptied]

    def _keeps(self, sequence: Sequence, whole_at_s: float | None) -> bool:
        """Whether the cache of a sequence that ended is kept for its program's next turn."""
        if sequence.session is None:
            return False
        if whole_at_s is None:
            self._sessions.fails(sequence)
            return False
        reload_s = self._work.outlook.recompute_s(sequence.num_computed_tokens)
        if not self._sessions.ends(sequence, whole_at_s, reload_s):
            return False
        if not self._room.keep(sequence):
            self._sessions.release(sequence)
            return False
        return True
