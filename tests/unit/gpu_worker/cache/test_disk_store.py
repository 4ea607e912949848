"""What is written to disk is read back bit by bit, in as few slots as it fills, and leaves no file behind."""

import os
from pathlib import Path
from random import Random

import pytest
import torch

from gpu_worker.cache.disk_store import DiskCopy, DiskStore, Rows

SLOT_BYTES = 96


def random_rows(rng: Random) -> Rows:
    """Rows of two layers, in types and widths of which none divides a slot."""
    num_rows = rng.randrange(0, 12)
    return {
        (0, "kv"): (torch.randn(2, num_rows, 3), torch.randn(1, num_rows, 5).to(torch.bfloat16)),
        (1, "indexer"): (torch.randint(-128, 128, (3, num_rows, 1), dtype=torch.int8), torch.empty(1, num_rows, 0)),
    }


def is_same(first: Rows, second: Rows) -> bool:
    return first.keys() == second.keys() and all(
        one.dtype == other.dtype and torch.equal(one, other)
        for key in first
        for one, other in zip(first[key], second[key], strict=True)
    )


@pytest.mark.parametrize("seed", range(5))
def test_rows_come_back_as_they_were_whoever_filled_their_slots_before(tmp_path: Path, seed: int) -> None:
    rng, store = Random(seed), DiskStore(tmp_path, 40, SLOT_BYTES)
    held: list[tuple[Rows, DiskCopy]] = []
    for _ in range(100):
        if held and rng.random() < 0.5:
            rows, copy = held.pop(rng.randrange(len(held)))
            assert is_same(copy.rows(), rows)
            copy.discard()
            continue
        rows = random_rows(rng)
        num_free, num_bytes = store.num_free_slots, sum(one.nbytes for pair in rows.values() for one in pair)
        if -(-num_bytes // SLOT_BYTES) > num_free:
            with pytest.raises(OSError, match=f"are needed, {num_free} are free"):
                store.write(rows)
        else:
            held.append((rows, store.write(rows)))
            assert store.num_free_slots == num_free - -(-num_bytes // SLOT_BYTES)
        assert all(is_same(copy.rows(), rows) for rows, copy in held)
    for _, copy in held:
        copy.discard()
    assert store.num_free_slots == 40


def test_parts_of_tensors_are_written_like_whole_ones(tmp_path: Path) -> None:
    store, whole = DiskStore(tmp_path, 8, SLOT_BYTES), torch.randn(2, 9, 4)
    part = whole.transpose(0, 1)[1:7]
    assert torch.equal(store.write({(0, "kv"): (part,)}).rows()[0, "kv"][0], part)


def test_the_file_has_no_name_and_all_of_its_room_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    allocate = os.posix_fallocate

    def note(file: int, offset: int, length: int) -> None:
        asked.append(length)
        allocate(file, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", note)
    DiskStore(tmp_path, 8, SLOT_BYTES)
    assert asked == [8 * SLOT_BYTES]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_and_a_directory_that_is_not_there_are_found_when_the_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        DiskStore(tmp_path / "missing", 8, SLOT_BYTES)

    def is_full(file: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", is_full)
    with pytest.raises(OSError, match="No space left"):
        DiskStore(tmp_path, 8, SLOT_BYTES)
    assert list(tmp_path.iterdir()) == []
