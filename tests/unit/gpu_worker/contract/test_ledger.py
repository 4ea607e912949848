"""A block belongs to one sequence at a time, and what a sequence leaves behind is free at once."""

from random import Random

import pytest

from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.errors import CommandRefused


def test_blocks_are_held_in_the_order_in_which_they_were_given() -> None:
    ledger = BlockLedger(8, 4, 2)
    ledger.extend(1, [5, 2])
    ledger.extend(1, [7])
    assert list(ledger.held_by(1)) == [5, 2, 7]
    assert list(ledger.held_by(9)) == []


def test_a_refused_move_changes_nothing() -> None:
    ledger = BlockLedger(8, 4, 2)
    ledger.extend(1, [0, 1, 2])
    ledger.extend(2, [3])
    ledger.offload(2)
    for refused, reason in (
        (lambda: ledger.offload(1), "holds 3 blocks, host memory has room for 1 of 2"),
        (lambda: ledger.offload(2), "sequence 2 is offloaded already"),
        (lambda: ledger.restore(1, [4]), "sequence 1 is not offloaded"),
        (lambda: ledger.restore(2, [4, 5]), "had 1 blocks, but 2 were given"),
        (lambda: ledger.restore(2, [0]), "block 0 is held by sequence 1"),
        (lambda: ledger.check_free([4, 4]), "name a block twice"),
    ):
        with pytest.raises(CommandRefused, match=reason):
            refused()
        assert (ledger.num_free_blocks, ledger.num_free_host_blocks) == (5, 1)
        assert (list(ledger.held_by(1)), list(ledger.offloaded_seq_ids)) == ([0, 1, 2], [2])
    ledger.check_integrity()


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_asked_no_block_is_lost_or_held_twice(seed: int) -> None:
    rng, ledger = Random(seed), BlockLedger(12, 4, 6)
    num_refused = 0
    for _ in range(300):
        seq_id, block_ids = rng.randrange(4), rng.sample(range(12), rng.randrange(4))
        try:
            match rng.randrange(4):
                case 0:
                    ledger.check_free(block_ids)
                    if seq_id not in ledger.offloaded_seq_ids:
                        ledger.extend(seq_id, block_ids)
                case 1:
                    ledger.offload(seq_id)
                case 2:
                    ledger.restore(seq_id, block_ids)
                case _:
                    ledger.forget(seq_id)
        except CommandRefused:
            num_refused += 1
        ledger.check_integrity()
        assert 0 <= ledger.num_free_host_blocks <= 6
        assert ledger.num_free_blocks == 12 - sum(len(ledger.held_by(seq_id)) for seq_id in range(4))
    assert 0 < num_refused < 300
    for seq_id in range(4):
        ledger.forget(seq_id)
    assert (ledger.num_free_blocks, ledger.num_free_host_blocks) == (12, 6)
