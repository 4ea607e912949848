from pathlib import Path

from gpu_worker.machine.processor import processor_name

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC

processor\t: 1
model name\t: another
"""


def test_processors_of_one_name_are_told_apart_by_family_and_model(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO)
    assert processor_name(file) == "AMD EPYC, family 26, model 2"


def test_there_is_always_some_name(tmp_path: Path) -> None:
    assert processor_name(tmp_path / "none")
    (tmp_path / "cpuinfo").write_text("")
    assert processor_name(tmp_path / "cpuinfo")
