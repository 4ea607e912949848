"""The offload file is made at the start, or refused with the setting that is to blame."""

from pathlib import Path

import pytest
from qllm.settings import SettingRefused

from gpu_worker.settings import OffloadDType, WorkerConfig
from gpu_worker.startup import prepare
from gpu_worker.startup.disk import open_disk
from tests.support.worker.worker_driver import loaded


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


def test_a_worker_tells_the_blocks_that_its_host_memory_and_its_disk_hold_in_the_form_that_they_have_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "touch_memory", lambda: None)  # leaves the heap as small as it is
    told = {}
    for dtype in OffloadDType:
        config = WorkerConfig(
            model="tiny",
            control_endpoint="ipc:///x",
            num_blocks=4,
            host_kv_gib=1 / 1024,
            offload_dir=tmp_path,
            offload_disk_gib=2 / 1024,
            offload_dtype=dtype,
        )
        worker = prepare.make_ready(config, loaded())
        model, cache = worker.hello.model, worker.executor._runner.cache
        assert model.host_block_bytes == cache.host_block_bytes
        assert model.num_host_blocks == (1 << 20) // model.host_block_bytes
        assert model.num_disk_blocks == cache.blocks.num_disk_blocks == (2 << 20) // model.host_block_bytes
        told[dtype] = model.host_block_bytes / cache.block_bytes
    assert told[OffloadDType.AUTO] == 1
    assert 0.25 < told[OffloadDType.INT8] < 0.27
