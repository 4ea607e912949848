"""What a process reports never ends it nor holds it up, whatever becomes of the reader."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from qllm.reporting import UnfailingFile

from tests.support.channel.control_channel import ROOT, python_path


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of one page: the ends to read and to write."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4096)
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_a_reader_that_went_away_is_no_error(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    assert UnfailingFile(pipe[1]).write(b"a line\n") == len(b"a line\n")


def test_a_full_disk_is_no_error() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        assert UnfailingFile(full.fileno()).write(b"a line\n") == len(b"a line\n")


def test_a_reader_that_stands_still_holds_nobody_up_and_learns_what_it_missed(pipe: tuple[int, int]) -> None:
    file = UnfailingFile(pipe[1])
    for _ in range(1000):  # each of them would wait for ever
        file.write(b"x" * 99 + b"\n")
    assert set(os.read(pipe[0], 1 << 16)) == set(b"x\n")
    file.write(b"again\n")
    told = os.read(pipe[0], 1 << 16).decode()
    assert told.endswith("writes to this log were lost\nagain\n")
    assert int(told.split()[0]) > 900


def test_threads_that_write_at_once_to_a_reader_that_stands_still_all_go_on(pipe: tuple[int, int]) -> None:
    file = UnfailingFile(pipe[1])

    def write_all() -> int:
        return sum(file.write(b"x" * 999 + b"\n") for _ in range(100))

    with ThreadPoolExecutor(4) as threads:
        written = [threads.submit(write_all) for _ in range(4)]
    assert [one.result() for one in written] == [100_000] * 4


def test_a_text_longer_than_a_pipe_takes_at_once_arrives_whole(pipe: tuple[int, int]) -> None:
    text = os.urandom(50_000).hex()
    program = f"from qllm.reporting import UnfailingFile as F; import sys; F(1).write({text!r}.encode())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=python_path(), capture_output=True, check=True)
    assert done.stdout.decode() == text


def test_what_is_opened_next_does_not_become_standard_error() -> None:
    program = (
        "import os, sys, qllm.reporting as r; r.report_without_failing()\n"
        "sys.stderr.write('lost'); sys.exit(os.open('/', os.O_RDONLY))"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec {sys.executable} -c "$0" 2>&-', program], cwd=ROOT, env=python_path()
    )
    assert done.returncode > 2
