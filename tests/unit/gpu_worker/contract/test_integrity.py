"""A worker counts what it holds, and says of its books what contradicts itself."""

import pytest

from gpu_worker.contract.commands import Tier
from gpu_worker.contract.integrity import check_members, integrity_report
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.contract.results import IntegrityReport
from tests.unit.gpu_worker.contract.test_checks import Held, Suspended


def test_blocks_are_counted_once_however_many_hold_them_and_those_off_the_device_where_they_lie() -> None:
    blocks = BlockLedger(8, 4, 4, 4)
    blocks.extend(1, [0, 1])
    blocks.share(2, [0])
    blocks.extend(3, [2, 3])
    blocks.offload(3)
    blocks.extend(4, [4])
    blocks.offload(4, Tier.DISK)
    sequences = {seq_id: Held() for seq_id in range(1, 5)}
    report = integrity_report(7, blocks.check_integrity, blocks, sequences)
    assert report == IntegrityReport(7, "", 4, num_held_blocks=2, num_host_blocks=2, num_disk_blocks=1)


def test_what_contradicts_itself_is_told_in_words() -> None:
    blocks = BlockLedger(8, 4, 4)
    blocks._num_holders[3] = 1
    assert "the holders are counted {3: 1}" in integrity_report(7, blocks.check_integrity, blocks, {}).problem


def test_a_batch_and_its_sequences_must_know_one_another() -> None:
    check_members({1: Held(batch_id=5), 2: Held()}, {5: Suspended([1])})
    for sequences, batches in (
        ({1: Held(), 2: Held()}, {5: Suspended([1])}),
        ({1: Held(batch_id=5)}, {5: Suspended([])}),
        ({1: Held(batch_id=6)}, {5: Suspended([1])}),
    ):
        with pytest.raises(AssertionError, match="but those say that they are in"):
            check_members(sequences, batches)
