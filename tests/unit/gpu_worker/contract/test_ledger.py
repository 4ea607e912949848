"""A block is free as soon as nobody holds it; several may hold one, and on each tier there is so much room."""

from collections.abc import Callable
from random import Random

import pytest

from gpu_worker.contract.commands import Tier
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
    refusals: tuple[tuple[Callable[[], None], str], ...] = (
        (lambda: ledger.offload(1), "holds 3 blocks, host memory has room for 1 of 2"),
        (lambda: ledger.offload(2), "sequence 2 is offloaded already"),
        (lambda: ledger.restore(1, [4]), "sequence 1 is not offloaded"),
        (lambda: ledger.restore(2, [4, 5]), "had 1 blocks, but 2 were given"),
        (lambda: ledger.restore(2, [0]), "block 0 is held by sequence 1"),
        (lambda: ledger.check_free([4, 4]), "name a block twice"),
    )
    for refused, reason in refusals:
        with pytest.raises(CommandRefused, match=reason):
            refused()
        assert (ledger.num_free_blocks, ledger.num_free_host_blocks) == (5, 1)
        assert (list(ledger.held_by(1)), list(ledger.offloaded_seq_ids)) == ([0, 1, 2], [2])
    ledger.check_integrity()


def test_a_shared_block_is_free_once_the_last_of_its_holders_gives_it_up() -> None:
    ledger = BlockLedger(8, 4, 2)
    ledger.extend(1, [5, 2])
    ledger.share(2, [5, 2])
    ledger.share(3, [5])
    assert [ledger.num_holders(block_id) for block_id in (5, 2, 0)] == [3, 2, 0]
    assert ledger.num_free_blocks == 6
    ledger.forget(1)
    ledger.offload(2)
    assert (ledger.num_holders(5), ledger.num_free_blocks, ledger.num_free_host_blocks) == (1, 7, 0)
    assert 2 in ledger.free_blocks(8)
    with pytest.raises(CommandRefused, match="block 5 is held by sequence 3"):
        ledger.check_free([5])
    ledger.restore(2, [5, 7], 1)
    ledger.forget(3)
    assert (ledger.num_holders(5), ledger.num_free_blocks) == (1, 6)
    ledger.check_integrity()


def test_a_block_that_nobody_holds_may_be_shared_too_but_none_that_does_not_exist_or_twice() -> None:
    ledger = BlockLedger(8, 4, 2)
    for block_ids, reason in (([8], "block 8 does not exist"), ([1, 1], "name a block twice")):
        with pytest.raises(CommandRefused, match=reason):
            ledger.share(1, block_ids)
    ledger.share(1, [6])
    assert list(ledger.held_by(1)) == [6]


def test_a_sequence_moves_from_the_device_or_the_host_to_disk_and_not_from_there_to_the_host() -> None:
    ledger = BlockLedger(8, 4, num_host_blocks=2, num_disk_blocks=3)
    ledger.extend(1, [0, 1])
    ledger.extend(2, [2, 3])
    ledger.offload(1, Tier.HOST)
    with pytest.raises(CommandRefused, match="holds 2 blocks, host memory has room for 0 of 2"):
        ledger.offload(2, Tier.HOST)
    ledger.offload(1, Tier.DISK)
    assert (ledger.tier_of(1), ledger.num_free_host_blocks, ledger.num_free_disk_blocks) == (Tier.DISK, 2, 1)
    with pytest.raises(CommandRefused, match="holds 2 blocks, the disk has room for 1 of 3"):
        ledger.offload(2, Tier.DISK)
    for tier in Tier:
        with pytest.raises(CommandRefused, match="sequence 1 is offloaded already"):
            ledger.offload(1, tier)
    ledger.restore(1, [6, 7])
    assert (ledger.tier_of(1), ledger.num_free_disk_blocks) == (None, 3)
    ledger.check_integrity()


def test_integrity_fails_for_a_count_that_is_wrong() -> None:
    wrong: tuple[Callable[[BlockLedger], None], ...] = (
        lambda ledger: ledger._num_holders.update({0: 2}),
        lambda ledger: ledger._tables[1].append(0),
        lambda ledger: ledger._filled.update({Tier.HOST: 1}),
        lambda ledger: ledger._hold(2, [3]),
    )
    for spoil in wrong:
        ledger = BlockLedger(8, 4, 2)
        ledger.extend(1, [0])
        ledger.extend(2, [1])
        ledger.offload(2)
        ledger.check_integrity()
        spoil(ledger)
        with pytest.raises(AssertionError):
            ledger.check_integrity()


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_asked_no_block_is_lost_or_given_as_new_while_it_is_held(seed: int) -> None:
    rng, ledger = Random(seed), BlockLedger(12, 4, 6, 4)
    num_refused = 0
    for _ in range(400):
        seq_id, block_ids = rng.randrange(4), rng.sample(range(12), rng.randrange(4))
        held = {block_id for other in range(4) for block_id in ledger.held_by(other)}
        try:
            match rng.randrange(5):
                case 0:
                    ledger.check_free(block_ids)
                    assert held.isdisjoint(block_ids)
                    if seq_id not in ledger.offloaded_seq_ids:
                        ledger.extend(seq_id, block_ids)
                case 1:
                    if not ledger.held_by(seq_id) and seq_id not in ledger.offloaded_seq_ids:
                        ledger.share(seq_id, block_ids)
                case 2:
                    ledger.offload(seq_id, rng.choice(list(Tier)))
                case 3:
                    ledger.restore(seq_id, block_ids, num_shared := rng.randrange(3))
                    assert held.isdisjoint(block_ids[num_shared:])
                case _:
                    ledger.forget(seq_id)
        except CommandRefused:
            num_refused += 1
        ledger.check_integrity()
        held = {block_id for other in range(4) for block_id in ledger.held_by(other)}
        assert ledger.num_free_blocks == 12 - len(held)
    assert 0 < num_refused < 400
    for seq_id in range(4):
        ledger.forget(seq_id)
    assert (ledger.num_free_blocks, ledger.num_free_host_blocks, ledger.num_free_disk_blocks) == (12, 6, 4)
