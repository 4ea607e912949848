import pytest

from scheduler_svc.core.cache.block_pool import IntegrityError
from scheduler_svc.core.cache.memory import Memory
from scheduler_svc.core.state.commands import Command, ForkSequence, OffloadSequence, RestoreSequence
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.results import WorkerModel
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, StopConditions
from tests.support.core.simulation import small_model


def sequence_of(seq_id: int, num_tokens: int, salt: bytes = b"") -> Sequence:
    prompt = tuple(range(num_tokens))
    sampling, stop = SamplingParams(), StopConditions(4)
    return Sequence(SeqId(seq_id), RequestClass.BEST_EFFORT, prompt, sampling, stop, 0.0, salt=salt)


class Books:
    """Memory with what it sends."""

    def __init__(self, **changes: object) -> None:
        self.model: WorkerModel = small_model(num_blocks=20, **changes)
        self.sent: list[Command] = []
        self.memory = Memory(self.model, self.sent.append)

    def run(self, sequence: Sequence) -> None:
        """Has a new sequence compute its prompt."""
        self.memory.begin(sequence, self.memory.claim(sequence, sequence.num_tokens).found)
        num_tokens = sequence.num_pending_tokens
        self.memory.grow(sequence, num_tokens)
        sequence.num_computed_tokens += num_tokens
        self.memory.computed(sequence)


def test_who_begins_alike_finds_full_blocks_and_has_one_token_left_to_compute() -> None:
    books = Books()
    books.run(first := sequence_of(1, 64))
    assert books.memory.claim(sequence_of(2, 64), 64).found == tuple(first.block_ids[:3])
    assert books.memory.claim(sequence_of(3, 65), 65).found == tuple(first.block_ids)
    assert books.memory.claim(sequence_of(4, 64, salt=b"other"), 64).found == ()


def test_a_fork_shares_full_blocks_and_has_a_last_one_of_its_own() -> None:
    books = Books()
    books.run(parent := sequence_of(1, 40))
    books.memory.fork(parent, child := sequence_of(2, 40))
    assert child.block_ids[:2] == parent.block_ids[:2]
    assert child.block_ids[2] != parent.block_ids[2]
    assert books.sent == [ForkSequence(SeqId(2), SeqId(1), (child.block_ids[2],))]
    books.memory.check_integrity([parent, child])
    books.memory.forget(parent)
    books.memory.check_integrity([child])


def test_what_comes_back_shares_what_the_device_still_has() -> None:
    books = Books()
    books.run(sequence := sequence_of(1, 40))
    first = tuple(sequence.block_ids[:2])
    books.memory.offload(sequence)
    books.memory.restore(sequence)
    assert isinstance(books.sent[0], OffloadSequence)
    assert books.sent[1] == RestoreSequence(SeqId(1), tuple(sequence.block_ids), 2)
    assert tuple(sequence.block_ids[:2]) == first


def test_what_came_back_in_fewer_bits_is_shared_with_nobody() -> None:
    books = Books(block_bytes=64, host_block_bytes=16)
    books.run(sequence := sequence_of(1, 64))
    books.memory.offload(sequence)
    books.memory.pool.allocate(20)  # nothing of it stays on the device
    books.memory.pool.release(list(range(20)))  # type: ignore[arg-type]
    books.memory.restore(sequence)
    assert books.memory.claim(sequence_of(2, 64), 64).found == ()


def test_a_sequence_that_failed_leaves_nothing_to_be_found() -> None:
    books = Books()
    books.run(sequence := sequence_of(1, 64))
    books.memory.distrust(sequence)
    books.memory.forget(sequence)
    assert books.memory.claim(sequence_of(2, 64), 64).found == ()
    assert books.memory.pool.num_kept == 0


def test_a_tier_that_is_counted_wrong_is_found() -> None:
    books = Books()
    books.run(sequence := sequence_of(1, 40))
    books.memory.offload(sequence)
    with pytest.raises(IntegrityError, match="blocks of HOST are filled"):
        books.memory.check_integrity([])
