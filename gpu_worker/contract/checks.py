"""Decides whether a command makes sense to a worker, from what that holds; says in which words it is refused.

    command ─▶ check ─▶ CommandRefused, and nothing has changed
                  ╰───▶ whoever holds it all carries the command out, and nothing of it can be refused any more

Pure: it changes nothing, and knows neither a model nor how commands travel. Every worker asks here, with a model or
without, so that what one refuses the others refuse, in the same words.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain
from math import inf, isfinite
from typing import Generic, Protocol, TypeVar

from gpu_worker.contract.commands import AddSequence, BatchItem, Sampling
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused, SequenceRefused


class KnownSequence(Protocol):
    """What a worker knows of a sequence."""

    @property
    def num_cached(self) -> int:
        """Tokens of finished iterations that are cached."""

    @property
    def last_token(self) -> int | None:
        """The token sampled last here, which an iteration may begin with."""

    @property
    def batch_id(self) -> int | None:
        """The suspended batch that it is in, if any."""


class KnownBatch(Protocol):
    """What a worker knows of a suspended batch."""

    @property
    def live_seq_ids(self) -> Iterable[int]:
        """Its sequences, without those that were dropped."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What a model sets bounds to.

    Attributes:
        experts_by_layer: Experts of each decoder layer, 0 for a layer without a mixture.
        vocab_size: Token ids are below this.
        max_model_len: Longest prompt plus output in tokens.
    """

    experts_by_layer: Sequence[int]
    vocab_size: int
    max_model_len: int


SequenceT = TypeVar("SequenceT", bound=KnownSequence)
BatchT = TypeVar("BatchT", bound=KnownBatch)


@dataclass(frozen=True, slots=True)
class Known(Generic[SequenceT, BatchT]):
    """What a worker holds: the owner's own registers, which the owner alone changes.

    Attributes:
        limits: What the model sets bounds to.
        blocks: Who holds which cache blocks.
        sequences: Sequences by id.
        batches: Suspended batches by id.
        failed_batch_ids: Batches that failed and were not dropped yet; commands that were on their way may name them.
    """

    limits: ModelLimits
    blocks: BlockLedger
    sequences: Mapping[int, SequenceT]
    batches: Mapping[int, BatchT]
    failed_batch_ids: AbstractSet[int] = field(default_factory=frozenset)

    def sequence(self, seq_id: int) -> SequenceT:
        """The sequence of this id; raises CommandRefused if there is none."""
        if seq_id not in self.sequences:
            raise CommandRefused(f"sequence {seq_id} is not known")
        return self.sequences[seq_id]

    def batch(self, batch_id: int) -> BatchT:
        """The suspended batch of this id; raises CommandRefused if there is none."""
        if batch_id not in self.batches:
            raise CommandRefused(f"batch {batch_id} is not known")
        return self.batches[batch_id]


def check_add(known: Known[SequenceT, BatchT], add: AddSequence) -> None:
    """Raises CommandRefused unless a sequence may be made known, with these blocks for its first tokens."""
    seq_id, shared_block_ids = add.seq_id, add.shared_block_ids
    if seq_id in known.sequences:
        raise CommandRefused(f"sequence {seq_id} is known already")
    _check_vocabulary(sorted(add.stop_token_ids), known.limits)
    _check_sampling(add.sampling, known.limits)
    _check_vocabulary((*add.prompt_token_ids, *add.output_token_ids), known.limits)
    if add.output_token_ids and len(add.output_token_ids) != add.num_output_tokens:
        given = f"{len(add.output_token_ids)} of the {add.num_output_tokens} tokens that it generated before"
        raise CommandRefused(f"sequence {seq_id} comes with {given}; all or none are needed")
    known.blocks.check_shared(shared_block_ids)
    num_tokens, max_model_len = len(shared_block_ids) * known.blocks.block_size, known.limits.max_model_len
    if num_tokens > max_model_len:
        raise CommandRefused(f"sequence {seq_id} would share {num_tokens} tokens, at most {max_model_len} fit")


def _check_sampling(sampling: Sampling, limits: ModelLimits) -> None:
    """Refuses tokens that are not there, and numbers that would make nonsense of logits."""
    biased = [token_id for token_id, _ in sampling.logit_bias]
    _check_vocabulary((*biased, *sampling.allowed_token_ids, *chain.from_iterable(sampling.bad_words)), limits)
    if not all(sampling.bad_words):
        raise CommandRefused("bad_words has a word of no tokens, each needs at least one")
    shifts = (sampling.presence_penalty, sampling.frequency_penalty, *(shift for _, shift in sampling.logit_bias))
    if not all(map(isfinite, shifts)) or not 0 < sampling.repetition_penalty < inf:
        raise CommandRefused("penalties and logit_bias must be finite numbers, and repetition_penalty above 0")


def check_fork(
    known: Known[SequenceT, BatchT], seq_id: int, parent_seq_id: int, new_block_ids: Sequence[int]
) -> tuple[SequenceT, SequenceT]:
    """Returns a sequence that may begin where another stands, and the other; raises CommandRefused if it may not."""
    child, parent, blocks = known.sequence(seq_id), known.sequence(parent_seq_id), known.blocks
    if parent.batch_id is not None:
        raise CommandRefused(f"sequence {parent_seq_id} is in batch {parent.batch_id}, it can't be forked")
    if parent_seq_id in blocks.offloaded_seq_ids:
        raise CommandRefused(f"sequence {parent_seq_id} is offloaded, it can't be forked")
    if child.batch_id is not None or blocks.held_by(seq_id) or seq_id in blocks.offloaded_seq_ids or child is parent:
        raise CommandRefused(f"sequence {seq_id} has begun already, it can't take what sequence {parent_seq_id} has")
    num_copied = int(parent.num_cached % blocks.block_size > 0)
    if len(new_block_ids) != num_copied:
        raise CommandRefused(
            f"sequence {parent_seq_id} has {parent.num_cached} tokens cached: "
            f"forking it takes {num_copied} new blocks, but {len(new_block_ids)} were given"
        )
    blocks.check_free(new_block_ids)
    return child, parent


def check_restore(
    known: Known[SequenceT, BatchT], seq_id: int, block_ids: Sequence[int], num_shared_blocks: int = 0
) -> SequenceT:
    """Returns an offloaded sequence that may come back into blocks; raises CommandRefused if it may not."""
    sequence, blocks = known.sequence(seq_id), known.blocks
    blocks.check_restore(seq_id, block_ids, num_shared_blocks)
    # Nobody writes to a shared block, so its rows are those of iterations that are over.
    if num_shared_blocks * blocks.block_size > sequence.num_cached:
        raise CommandRefused(
            f"sequence {seq_id} would share {num_shared_blocks} blocks of {blocks.block_size} tokens, but has "
            f"{sequence.num_cached} tokens cached"
        )
    return sequence


def check_start(known: Known[SequenceT, BatchT], batch_id: int, items: Sequence[BatchItem]) -> list[SequenceT]:
    """Returns the sequences of a batch that may be started.

    Raises:
        SequenceRefused: One of them is in the way; the others could run without it.
        CommandRefused: The batch as a whole makes no sense.
    """
    if batch_id in known.batches:
        raise CommandRefused(f"batch {batch_id} is known already")
    if not items:
        raise CommandRefused(f"batch {batch_id} has no sequences")
    seq_ids = [*(item.seq_id for item in items), *chain.from_iterable(item.also_sampled_ids for item in items)]
    if len(set(seq_ids)) != len(seq_ids):
        raise CommandRefused(f"batch {batch_id} names a sequence twice")
    sequences: list[SequenceT] = []
    for item in items:
        try:
            sequences.append(sequence := known.sequence(item.seq_id))
            _check_item(known, item, sequence)
        except CommandRefused as refusal:
            raise SequenceRefused(item.seq_id, str(refusal)) from None
        for also_id in item.also_sampled_ids:
            _check_also_sampled(known, also_id)
    # Each item's blocks are free by themselves; two items may still name the same ones.
    known.blocks.check_free([block_id for item in items for block_id in item.new_block_ids])
    return sequences


def tokens_of(item: BatchItem, sequence: KnownSequence) -> Sequence[int]:
    """The tokens that an item, which was checked, is about: its own, or the one that was sampled last."""
    last = sequence.last_token
    return item.token_ids if item.token_ids or last is None else (last,)


def check_advance(known: Known[SequenceT, BatchT], batch_ids: Sequence[int], until: Cursor) -> list[BatchT]:
    """Returns the batches that may be advanced to a cursor; those that failed are passed over.

    Raises:
        SequenceRefused: A sequence of them is offloaded; without it its batch could go on.
        CommandRefused: A batch is not known or named twice, or the cursor is no place in the model.
    """
    if not batch_ids or len(set(batch_ids)) != len(batch_ids):
        raise CommandRefused(f"batches {list(batch_ids)} must be at least one, each once")
    experts_by_layer = known.limits.experts_by_layer
    if not _is_place(until, experts_by_layer):
        raise CommandRefused(f"{until} is no place in a model with experts {tuple(experts_by_layer)} by layer")
    batches = [known.batch(batch_id) for batch_id in batch_ids if batch_id not in known.failed_batch_ids]
    if offloaded := known.blocks.offloaded_seq_ids:
        away = next((seq_id for batch in batches for seq_id in batch.live_seq_ids if seq_id in offloaded), None)
        if away is not None:
            raise SequenceRefused(away, f"sequence {away} is offloaded, its batch can't go on")
    return batches


def _check_item(known: Known[SequenceT, BatchT], item: BatchItem, sequence: KnownSequence) -> None:
    seq_id, first_position, new_block_ids = item.seq_id, item.first_position, item.new_block_ids
    num_cached, blocks, max_model_len = sequence.num_cached, known.blocks, known.limits.max_model_len
    if sequence.batch_id is not None:
        raise CommandRefused(f"sequence {seq_id} is in batch {sequence.batch_id} already")
    if seq_id in blocks.offloaded_seq_ids:
        raise CommandRefused(f"sequence {seq_id} is offloaded")
    if first_position != num_cached:
        raise CommandRefused(f"sequence {seq_id} has {num_cached} tokens cached, not {first_position}")
    _check_tokens(item, sequence, known.limits)
    _check_scored(item, known.limits)
    if new_block_ids:
        blocks.check_free(new_block_ids)
    length = first_position + item.num_tokens
    if length > max_model_len:
        raise CommandRefused(f"sequence {seq_id} would have {length} tokens, at most {max_model_len} fit")
    _check_writes(item, blocks)
    room = (len(blocks.held_by(seq_id)) + len(new_block_ids)) * blocks.block_size
    if length > room:
        raise CommandRefused(f"sequence {seq_id} would have {length} tokens, its blocks have room for {room}")


def _check_also_sampled(known: Known[SequenceT, BatchT], seq_id: int) -> None:
    """Refuses a sequence that can't have its first token from another's logits, in its own name: that one can."""
    try:
        sequence = known.sequence(seq_id)
    except CommandRefused as refusal:
        raise SequenceRefused(seq_id, str(refusal)) from None
    if sequence.num_cached or sequence.batch_id is not None:
        raise SequenceRefused(
            seq_id, f"sequence {seq_id} has begun already, it can't have its first token from another's logits"
        )


def _check_writes(item: BatchItem, blocks: BlockLedger) -> None:
    """Refuses to write where others read: only a sequence whose cache became void could want that."""
    for block_id in blocks.held_by(item.seq_id)[item.first_position // blocks.block_size :]:
        if blocks.num_holders(block_id) > 1:
            raise CommandRefused(f"sequence {item.seq_id} would write to block {block_id}, which others hold too")


def _check_tokens(item: BatchItem, sequence: KnownSequence, limits: ModelLimits) -> None:
    seq_id, num_tokens, token_ids = item.seq_id, item.num_tokens, item.token_ids
    if num_tokens < 1:
        raise CommandRefused(f"sequence {seq_id} has {num_tokens} tokens to compute, at least 1 is needed")
    if token_ids:
        if len(token_ids) != num_tokens:
            raise CommandRefused(f"sequence {seq_id} has {len(token_ids)} token ids for {num_tokens} tokens")
        _check_vocabulary(token_ids, limits)
    elif num_tokens != 1 or sequence.last_token is None:
        raise CommandRefused(f"sequence {seq_id} has no token ids, and none that was sampled here stands for them")


def _check_scored(item: BatchItem, limits: ModelLimits) -> None:
    if len(item.scored_token_ids) > item.num_tokens:
        given = f"{len(item.scored_token_ids)} tokens to score behind {item.num_tokens}"
        raise CommandRefused(f"sequence {item.seq_id} has {given}, at most one behind each is allowed")
    _check_vocabulary(item.scored_token_ids, limits)


def _check_vocabulary(token_ids: Iterable[int], limits: ModelLimits) -> None:
    size = limits.vocab_size
    outside = next((token_id for token_id in token_ids if not 0 <= token_id < size), None)
    if outside is not None:
        raise CommandRefused(f"token {outside} is outside of the vocabulary of {size}")


def _is_place(cursor: Cursor, experts_by_layer: Sequence[int]) -> bool:
    """Whether a batch can stand there: before or behind a layer's experts, before a layer, or at the end."""
    layer, stage, expert = cursor
    if stage is Stage.EXPERTS:
        return 0 <= layer < len(experts_by_layer) and 0 <= expert <= experts_by_layer[layer]
    return 0 <= layer <= len(experts_by_layer) and expert == 0
