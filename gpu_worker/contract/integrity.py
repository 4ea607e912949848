"""Answers CheckIntegrity: counts what a worker holds, and says what of its books contradicts itself.

Pure: whoever holds more than a ledger says how that is checked.
"""

from collections.abc import Callable, Mapping

from gpu_worker.contract.checks import KnownBatch, KnownSequence
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.contract.results import IntegrityReport


def integrity_report(
    check_id: int, check: Callable[[], None], blocks: BlockLedger, sequences: Mapping[int, KnownSequence]
) -> IntegrityReport:
    """Returns the counts, and in `problem` what a check that raises AssertionError says."""
    problem = ""
    try:
        check()
    except AssertionError as error:
        problem = str(error) or "a check failed"
    return IntegrityReport(
        check_id,
        problem,
        num_sequences=len(sequences),
        num_held_blocks=blocks.num_blocks - blocks.num_free_blocks,
        num_host_blocks=blocks.num_host_blocks - blocks.num_free_host_blocks,
        num_disk_blocks=blocks.num_disk_blocks - blocks.num_free_disk_blocks,
    )


def check_members(sequences: Mapping[int, KnownSequence], batches: Mapping[int, KnownBatch]) -> None:
    """Raises AssertionError unless each suspended batch and its sequences know one another."""
    in_batches = {seq_id: batch_id for batch_id, batch in batches.items() for seq_id in batch.live_seq_ids}
    known = {seq_id: held.batch_id for seq_id, held in sequences.items() if held.batch_id is not None}
    if in_batches != known:
        raise AssertionError(f"batches hold sequences {in_batches}, but those say that they are in {known}")
