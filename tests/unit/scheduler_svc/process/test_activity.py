"""Whether a process does anything is seen from what the system counts of it and of all that it has started."""

import os
import subprocess
import sys
import time

from scheduler_svc.process.activity import Standstill, counts_of

SHORT_S, LONG_S = 0.05, 30.0


def changes(pid: int, within_s: float) -> bool:
    before, until_s = counts_of(pid), time.monotonic() + within_s
    while time.monotonic() < until_s:
        if counts_of(pid) != before:
            return True
        time.sleep(SHORT_S)
    return False


def test_a_standstill_lasts_as_long_as_nothing_is_counted_and_nobody_says_otherwise() -> None:
    standstill, some, more = Standstill(), frozenset({(1, 2)}), frozenset({(1, 3)})
    assert [standstill.look(counts) for counts in (some, some, some, more, more)] == [0, 1, 2, 0, 1]
    standstill.ends()
    assert standstill.look(more) == 1


def test_what_a_child_of_a_child_does_counts_for_its_ancestors() -> None:
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {'while True: pass'!r}])"
    grandparent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {parent!r}])"
    with subprocess.Popen([sys.executable, "-c", grandparent], process_group=0) as process:
        try:
            while len(counts_of(process.pid)) < 3:
                time.sleep(SHORT_S)
            assert changes(process.pid, LONG_S)
        finally:
            os.killpg(process.pid, 9)


def test_a_process_that_is_gone_counts_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        assert counts_of(process.pid) == counts_of(process.pid)
