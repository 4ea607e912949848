"""Admission by memory: gives sequences the blocks that their next tokens need; moves caches off the device and back.

Owns the device's block ids, counts the blocks of the other tiers, and knows which blocks hold what tokens, so that a
sequence begins with what others computed of its prompt. Decides nothing about whom to move: callers name the victim.
Emits the commands that carry it out; the worker runs commands in order, so a block may be used again at once.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import takewhile

from scheduler_svc.core.cache.block_pool import BlockPool, IntegrityError
from scheduler_svc.core.cache.prefix_index import PrefixIndex, extend_digests
from scheduler_svc.core.state.commands import (
    AddSequence,
    Command,
    DropSequence,
    ForkSequence,
    OffloadSequence,
    RestoreSequence,
)
from scheduler_svc.core.state.ids import BlockId, SeqId
from scheduler_svc.core.state.results import WorkerModel
from scheduler_svc.core.state.sequence import Sequence, SequenceState, Tier


@dataclass(frozen=True, slots=True)
class Claim:
    """What a sequence without blocks on the device needs there to run its next tokens.

    Attributes:
        found: Blocks that hold its first tokens already, computed by others, or by itself before it was moved.
        num_found_tokens: Tokens that it need not compute for that reason.
        num_coming_tokens: Tokens behind those that an iteration under way computes for another sequence.
        coming_from: That sequence, or one of them; None if there are no such tokens.
        num_blocks: Free blocks that it takes, found ones that nobody holds among them.
    """

    found: tuple[BlockId, ...]
    num_found_tokens: int
    num_coming_tokens: int
    coming_from: Sequence | None
    num_blocks: int


@dataclass(slots=True)
class MoveCounters:
    """What was moved, given up and found again since the worker joined; the fields of `MemoryLoad` of these names."""

    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_offloads: int = 0
    num_restores: int = 0
    num_drops: int = 0
    num_recomputed_tokens: int = 0


class _Coming:
    """The blocks that iterations under way fill, by digest, and for which sequence."""

    def __init__(self) -> None:
        self._owner_of: dict[bytes, Sequence] = {}
        self._digests_of: dict[SeqId, set[bytes]] = {}

    def add(self, sequence: Sequence, digests: Iterable[bytes]) -> None:
        """Adds blocks; those that another sequence computes already stay that one's."""
        added = {digest for digest in digests if digest not in self._owner_of}
        self._owner_of.update(dict.fromkeys(added, sequence))
        self._digests_of.setdefault(sequence.seq_id, set()).update(added)

    def remove(self, sequence: Sequence, digests: Iterable[bytes]) -> None:
        """Takes out what a sequence has computed."""
        own = self._digests_of.get(sequence.seq_id, set())
        for digest in own.intersection(digests):
            own.remove(digest)
            del self._owner_of[digest]

    def forget(self, sequence: Sequence) -> None:
        """Takes out all that a sequence was to compute: it ends, or leaves its iteration."""
        for digest in self._digests_of.pop(sequence.seq_id, ()):
            del self._owner_of[digest]

    def find(self, digests: Iterable[bytes]) -> list[Sequence]:
        """Returns who computes the first few blocks, as far as somebody does."""
        return list(takewhile(bool, map(self._owner_of.get, digests)))  # type: ignore[arg-type]

    @property
    def owners(self) -> Collection[Sequence]:
        """Those who compute any."""
        return self._owner_of.values()


class Memory:
    """Device blocks, and blocks of the other tiers, of one worker.

    Args:
        model: How many there are.
        emit: Takes commands to the worker, in order.
        shares: Whether sequences that begin alike share blocks.
    """

    def __init__(self, model: WorkerModel, emit: Callable[[Command], None], *, shares: bool = True) -> None:
        self._index = PrefixIndex()
        self.pool = BlockPool(model.num_blocks, self._index.drop)
        self._num_by_tier = {Tier.HOST: model.num_host_blocks, Tier.DISK: model.num_disk_blocks}
        self.num_free_by_tier = dict(self._num_by_tier)
        self.num_offloaded = 0  # sequences whose cache is off the device now
        self.num_states = 0  # sequences that keep a state on the device now
        self.counters = MoveCounters()
        self._most_states = model.num_states
        self._shares = shares and not model.no_sharing_reason
        self._moves_exactly = model.host_block_bytes == model.block_bytes  # else in fewer bits
        self._coming = _Coming()
        self._block_size = model.block_size
        self._emit = emit

    # ---- what there is

    @property
    def num_free_host_blocks(self) -> int:
        """Blocks' worth of host memory that is free."""
        return self.num_free_by_tier[Tier.HOST]

    @property
    def num_free_states(self) -> int:
        """Sequences that may begin to keep a state on the device; many where there are none to keep."""
        return self._most_states - self.num_states if self._most_states else self.pool.num_blocks

    def num_missing(self, sequence: Sequence, num_tokens: int) -> int:
        """Counts the blocks that a sequence on the device lacks for its next `num_tokens` tokens."""
        missing = -(-(sequence.num_computed_tokens + num_tokens) // self._block_size) - len(sequence.block_ids)
        return missing if missing > 0 else 0

    def fits(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether the blocks for its next `num_tokens` tokens are free."""
        return self.num_missing(sequence, num_tokens) <= self.pool.num_free

    def claim(self, sequence: Sequence, num_tokens: int) -> Claim:
        """Returns what a sequence that holds no blocks on the device needs there, to run `num_tokens` tokens at most.

        Of a new one those are counted from its first token on: what is found of them need not be run.
        """
        claim = self._claim_away if sequence.is_offloaded else self._claim_new
        return claim(sequence, num_tokens)

    def _claim_new(self, sequence: Sequence, num_tokens: int) -> Claim:
        digests = self._digests(sequence, sequence.num_reusable_tokens // self._block_size)
        found = self._index.find(digests)
        coming = self._coming.find(digests[len(found) :])
        num_found_tokens = len(found) * self._block_size
        num_wanted = -(-max(num_tokens, num_found_tokens + 1) // self._block_size)
        num_blocks = num_wanted - len(found) + self.pool.num_unheld(found)
        num_coming_tokens = len(coming) * self._block_size
        return Claim(found, num_found_tokens, num_coming_tokens, coming[-1] if coming else None, num_blocks)

    def _claim_away(self, sequence: Sequence, num_tokens: int) -> Claim:
        """Of one that stands inside an iteration only what it had before is looked for: the rest is its own."""
        found = self._index.find(self._digests(sequence, sequence.num_computed_tokens // self._block_size))
        length = sequence.num_computed_tokens + min(num_tokens, sequence.num_pending_tokens)
        num_wanted = max(sequence.num_host_blocks, -(-length // self._block_size) if num_tokens else 0)
        return Claim(found, 0, 0, None, num_wanted - len(found) + self.pool.num_unheld(found))

    def claim_with(self, sequence: Sequence, kept: Sequence) -> Claim | None:
        """Returns what a new sequence needs that begins with what is kept off the device, which is brought back first.

        None where that holds nothing of use that is not on the device anyway.
        """
        claim, needed = self._claim_new(sequence, sequence.num_tokens), self._claim_away(kept, 0)
        of_kept = self._digests(kept, kept.num_host_blocks)
        own = self._digests(sequence, sequence.num_reusable_tokens // self._block_size)
        pairs = zip(own, of_kept, strict=False)
        num_alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if num_alike <= len(claim.found):
            return None
        num_blocks = needed.num_blocks - (-sequence.num_tokens // self._block_size) - num_alike
        return Claim(needed.found, num_alike * self._block_size, 0, None, num_blocks)

    def _digests(self, sequence: Sequence, num_blocks: int) -> list[bytes]:
        return extend_digests(sequence, self._block_size, num_blocks)[:num_blocks] if self._shares else []

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Checks that the books agree with what all sequences hold; raises IntegrityError naming what does not."""
        sequences = list(sequences)
        self.pool.check_integrity(sequence.block_ids for sequence in sequences)
        for tier, num_free in self.num_free_by_tier.items():
            num_filled = sum(each.num_host_blocks for each in sequences if each.tier is tier)
            if num_free + num_filled != self._num_by_tier[tier]:
                raise IntegrityError(f"{num_filled} blocks of {tier.name} are filled, {num_free} counted as free")
        if stray := [owner.seq_id for owner in self._coming.owners if owner.state is not SequenceState.IN_BATCH]:
            raise IntegrityError(f"sequence {stray[0]} is waited for, but computes nothing")
        num_states = sum(bool(sequence.block_ids) for sequence in sequences)
        if num_states != self.num_states:
            raise IntegrityError(f"{num_states} sequences are on the device, {self.num_states} are counted")

    # ---- sequences take

    def begin(self, sequence: Sequence, found: tuple[BlockId, ...]) -> None:
        """Lets a sequence begin with blocks that hold its first tokens."""
        num_found_tokens = len(found) * self._block_size
        self.pool.share(found)
        sequence.block_ids = list(found)
        sequence.num_computed_tokens = num_found_tokens
        sequence.num_known_blocks = len(found)
        self._note_start(sequence, num_found_tokens)

    def _note_start(self, sequence: Sequence, num_found_tokens: int) -> None:
        self.num_states += 1
        if sequence.num_starts:
            self.counters.num_recomputed_tokens += max(0, sequence.num_lost_tokens - num_found_tokens)
        else:
            sequence.num_cached_tokens = num_found_tokens
            self.counters.num_prompt_tokens += len(sequence.prompt_token_ids)
            self.counters.num_cached_tokens += num_found_tokens
        sequence.num_starts += 1

    def grow(self, sequence: Sequence, num_tokens: int) -> tuple[BlockId, ...]:
        """Gives it the blocks for its next `num_tokens` tokens, which must fit; returns the new ones."""
        num_missing = self.num_missing(sequence, num_tokens)
        if not num_missing:
            return ()
        after = sequence.block_ids[-1] if sequence.block_ids else None
        added = self.pool.allocate(num_missing, after)
        sequence.block_ids += added
        return tuple(added)

    def num_copied(self, parent: Sequence) -> int:
        """Counts the blocks that forking a sequence takes: its last one is copied if it is not full."""
        return int(parent.num_computed_tokens % self._block_size > 0)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Gives a sequence that was made known and holds nothing what another has computed, outside of an iteration.

        As many blocks as it copies, and a place for states, must be free.
        """
        num_full = parent.num_computed_tokens // self._block_size
        shared = parent.block_ids[:num_full]
        copied = self.pool.allocate(self.num_copied(parent))
        self.pool.share(shared)
        child.block_ids = [*shared, *copied]
        child.num_computed_tokens = parent.num_computed_tokens
        child.num_known_blocks = min(num_full, parent.num_known_blocks)
        child.is_exact = parent.is_exact
        self._note_start(child, parent.num_computed_tokens)
        self._emit(ForkSequence(child.seq_id, parent.seq_id, tuple(copied)))

    # ---- what is found again

    def computes(self, sequence: Sequence, first_position: int, num_tokens: int) -> None:
        """Notes which blocks an iteration that begins will fill for a sequence, so that others may wait for them."""
        first, stop = first_position // self._block_size, (first_position + num_tokens) // self._block_size
        if self._shares and sequence.is_exact and stop > first:
            digests = self._digests(sequence, stop)[first:]
            self._coming.add(sequence, (digest for digest in digests if digest not in self._index))

    def computed(self, sequence: Sequence) -> None:
        """Lets others find the blocks that a sequence has filled, after an iteration that ended."""
        num_known, num_full = sequence.num_known_blocks, sequence.num_computed_tokens // self._block_size
        if num_full == num_known or not self._shares:
            return
        digests = self._digests(sequence, num_full)[num_known:]
        self._coming.remove(sequence, digests)
        if sequence.is_offloaded or not sequence.is_exact:
            return  # what is off the device is known once it is back, if it comes back as it was
        for block, digest in zip(sequence.block_ids[num_known:num_full], digests, strict=True):
            if self._index.add(digest, block):
                self.pool.remember(block)
        sequence.num_known_blocks = num_full

    def distrust(self, sequence: Sequence) -> None:
        """Has nobody find what a sequence computed: it failed, and its rows may be the reason."""
        for block in sequence.block_ids:
            self._index.drop(block)
            self.pool.disremember(block)

    # ---- caches move

    def offload(self, sequence: Sequence, tier: Tier = Tier.HOST) -> None:
        """Moves its cache off the device and gives up its blocks; the tier has room."""
        # First: whoever gets the blocks writes to them by a later command.
        self._emit(OffloadSequence(sequence.seq_id, tier))
        sequence.tier = tier
        sequence.num_host_blocks = len(sequence.block_ids)
        self.num_free_by_tier[tier] -= sequence.num_host_blocks
        self._leave_device(sequence)
        self.num_offloaded += 1
        self.counters.num_offloads += 1

    def restore(self, sequence: Sequence) -> None:
        """Moves an offloaded sequence's cache back; what its `claim` says must be free."""
        found = self.claim(sequence, 0).found
        self.pool.share(found)
        after = found[-1] if found else None
        sequence.block_ids = [*found, *self.pool.allocate(sequence.num_host_blocks - len(found), after)]
        sequence.num_known_blocks = len(found)
        self._emit(RestoreSequence(sequence.seq_id, tuple(sequence.block_ids), len(found)))
        self.num_states += 1
        self.counters.num_restores += 1
        self._leave_tier(sequence)
        sequence.is_exact = sequence.is_exact and self._moves_exactly
        self.computed(sequence)

    def keep(self, sequence: Sequence) -> bool:
        """Keeps the full blocks of a sequence that ended, as one that is in no iteration; False if there are none."""
        num_full = sequence.num_computed_tokens // self._block_size
        if not self._shares or not num_full or sequence.is_offloaded:
            return False
        # Dropped and made known anew: an iteration under way may still hold it, and writes to the blocks behind these.
        self._emit(DropSequence(sequence.seq_id))
        self._coming.forget(sequence)
        kept, rest = sequence.block_ids[:num_full], sequence.block_ids[num_full:]
        self.pool.release(rest)
        sequence.block_ids = kept
        self._emit(AddSequence.kept(sequence, tuple(kept)))
        return True

    def forget(self, sequence: Sequence) -> None:
        """Gives up all that is kept of it, here and in the worker: it ended, or is to be computed again."""
        # Steps in flight may still write to its blocks. They run before the drop, and the blocks'
        # next owner begins behind it.
        if sequence.known_to_worker:
            self._emit(DropSequence(sequence.seq_id))
        self._coming.forget(sequence)
        sequence.lose_cache()
        if sequence.is_offloaded:
            self._leave_tier(sequence)
        elif sequence.block_ids:
            self._leave_device(sequence)

    def _leave_tier(self, sequence: Sequence) -> None:
        self.num_free_by_tier[sequence.tier] += sequence.num_host_blocks
        self.num_offloaded -= 1
        sequence.num_host_blocks = 0

    def _leave_device(self, sequence: Sequence) -> None:
        self.pool.release(sequence.block_ids)
        self.num_states -= 1
        sequence.block_ids = []
