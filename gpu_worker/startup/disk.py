"""Opens the file that caches of waiting sequences are offloaded to, as the settings say."""

from pathlib import Path

from qllm.settings import SettingRefused

from gpu_worker.cache.disk_store import DiskStore


def open_disk(directory: Path | None, num_blocks: int, block_bytes: int) -> DiskStore | None:
    """Makes the file with a slot for each block; None where no disk is used.

    Raises:
        SettingRefused: It can't be made, or there is no room for it.
    """
    if directory is None:
        return None
    if num_blocks < 1:
        raise SettingRefused(f"--offload-disk-gib: one block of {block_bytes} bytes does not fit, allowed is more")
    try:
        return DiskStore(directory, num_blocks, block_bytes)
    except OSError as error:
        raise SettingRefused(
            f"--offload-dir: {directory} can't hold {num_blocks * block_bytes} bytes ({error.strerror or error}); "
            "allowed is a directory with room for --offload-disk-gib"
        ) from error
