"""What a control group lets a process have is read from both versions' files, the group's own and those above it."""

from pathlib import Path

import pytest

from gpu_worker.machine.control_group import cpu_quota, free_memory_bytes

QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    return tmp_path / "membership"


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "400000 100000\n"}, 3.0),
        ("0::/docker/0123\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/../..\n", {"cpu.max": "200000 100000\n"}, 2.0),
        (
            "4:memory:/x\n3:cpu,cpuacct:/x\n",
            {f"cpu,cpuacct/x/{QUOTA}": "250000\n", f"cpu,cpuacct/x/{PERIOD}": "100000\n"},
            2.5,
        ),
        ("1:cpu:/x\n", {f"cpu/x/{QUOTA}": "-1\n", f"cpu/x/{PERIOD}": "100000\n"}, None),
        ("1:cpu:/x\n", {f"cpu/x/{QUOTA}": "nonsense", f"cpu/x/{PERIOD}": "0"}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_the_least_quota_of_the_group_and_those_above_it_counts(
    tmp_path: Path, membership: Path, group: str, files: dict[str, str], quota: float | None
) -> None:
    membership.write_text(group)
    write(tmp_path / "root", files)
    assert cpu_quota(tmp_path / "root", membership) == quota


def test_memory_that_only_caches_files_is_free(tmp_path: Path, membership: Path) -> None:
    root = tmp_path / "root"
    membership.write_text("0::/a\n")
    write(
        root,
        {
            "a/memory.max": "1000\n",
            "a/memory.current": "700\n",
            "a/memory.stat": "anon 500\nfile 250\nshmem 50\nactive_file 80\ninactive_file 120\n",
        },
    )
    assert free_memory_bytes(root, membership) == 500
    write(root, {"memory.max": "1000\n", "memory.current": "900\n"})
    assert free_memory_bytes(root, membership) == 100


def test_version_1_knows_memory_too_and_none_means_no_limit(tmp_path: Path, membership: Path) -> None:
    root = tmp_path / "root"
    membership.write_text("4:memory:/x\n")
    assert free_memory_bytes(root, membership) is None
    write(root, {"memory/x/memory.limit_in_bytes": "800\n", "memory/x/memory.usage_in_bytes": "900\n"})
    assert free_memory_bytes(root, membership) == 0


def test_a_system_without_control_groups_limits_nothing(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "nothing") is None
    assert free_memory_bytes(tmp_path, tmp_path / "nothing") is None
