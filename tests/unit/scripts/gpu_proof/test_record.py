import json
from pathlib import Path

from scripts.gpu_proof.record import PASSED, RUNNING, Log, Record


def test_the_files_are_whole_after_every_change_and_nothing_else_lies_beside_them(tmp_path: Path) -> None:
    record = Record(tmp_path, {"commit": "abc"}, ("first", "second"))
    record.steps["first"].status = PASSED
    record.steps["first"].figures["speed"] = {"ms": 12.3456, "kind": None}
    record.steps["second"].status = RUNNING
    record.write()
    record.log.close()
    assert {file.name for file in tmp_path.iterdir()} == {"results.json", "summary.txt", "log.txt"}
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["commit"] == "abc"
    assert document["steps"]["first"]["figures"] == {"speed": {"ms": 12.3456, "kind": None}}
    summary = (tmp_path / "summary.txt").read_text()
    assert "speed: ms 12.35\n" in summary
    assert "second       running" in summary


def test_a_summary_fits_on_a_screen_even_if_every_step_failed_at_length(tmp_path: Path) -> None:
    record = Record(tmp_path, {}, ("a", "b", "c", "d", "e", "f"))
    for one in record.steps.values():
        one.status, one.error, one.box_s = "failed", "\n".join(f"line {n} {'x' * 300}" for n in range(50)), 1.0
        one.notes = [f"test {number}: {'y' * 300}" for number in range(10)]
    record.log.close()
    lines = record.summary().splitlines()
    assert len(lines) <= 6 * 10 + 2
    assert max(map(len, lines)) <= 130
    assert "and 6 more in results.json" in record.summary()


def test_a_log_stops_growing_at_its_limit_and_still_knows_its_last_lines(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.txt", most_bytes=1_000)
    for number in range(1_000):
        log.write(f"line {number}\n".encode())
    log.close()
    assert (tmp_path / "log.txt").stat().st_size < 1_100
    assert b"the log is full" in (tmp_path / "log.txt").read_bytes()
    assert log.last_lines(1) == "line 999"
