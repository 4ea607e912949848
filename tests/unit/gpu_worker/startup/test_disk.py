"""The offload file is made at the start, or refused with the setting that is to blame."""

from pathlib import Path

import pytest
from qllm.settings import SettingRefused

from gpu_worker.settings import WorkerConfig
from gpu_worker.startup.disk import open_disk


def test_no_directory_is_no_disk_and_one_has_a_slot_for_each_block(tmp_path: Path) -> None:
    assert open_disk(None, 0, 128) is None
    disk = open_disk(tmp_path, 5, 128)
    assert disk is not None
    assert (disk.num_slots, disk.slot_bytes) == (5, 128)


def test_what_cannot_be_made_or_holds_nothing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingRefused, match=r"--offload-dir: .*missing can't hold 640 bytes \(No such file"):
        open_disk(tmp_path / "missing", 5, 128)
    with pytest.raises(SettingRefused, match="--offload-disk-gib: one block of 128 bytes does not fit"):
        open_disk(tmp_path, 0, 128)


@pytest.mark.parametrize("given", [{"offload_dir": Path("/tmp")}, {"offload_disk_gib": 0.5}], ids=["dir", "gib"])
def test_a_directory_without_a_size_or_a_size_without_a_directory_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(
        SettingRefused, match=r"--offload-dir and --offload-disk-gib: got .*, allowed are both, or neither"
    ):
        WorkerConfig(model="m", control_endpoint="ipc:///x", **given)  # type: ignore[arg-type]
