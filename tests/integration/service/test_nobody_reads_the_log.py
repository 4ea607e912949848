"""The service goes on when nobody takes what it and its worker report."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.channel.control_channel import ROOT, python_path
from tests.support.service.live_service import LiveService, free_port


def reader_gone(command: list[str]) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(command, cwd=ROOT, env=python_path(), stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    return process


def reader_stands_still(command: list[str]) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(command, cwd=ROOT, env=python_path(), stderr=subprocess.PIPE)
    assert process.stderr is not None
    fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
    return process


def disk_full(command: list[str]) -> "subprocess.Popen[bytes]":
    with Path("/dev/full").open("wb") as full:
        return subprocess.Popen(command, cwd=ROOT, env=python_path(), stderr=full)


def stderr_closed(command: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["/bin/sh", "-c", 'exec "$0" "$@" 2>&-', *command], cwd=ROOT, env=python_path())


@pytest.mark.parametrize("start", [reader_gone, reader_stands_still, disk_full, stderr_closed])
def test_service_serves_replaces_its_worker_and_ends_in_good_order_with_nobody_to_report_to(
    start: Callable[[list[str]], "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "scheduler_svc", "--model", "bytes", "--spawn-worker", "--grpc-port", str(port)]
    process = start([*command, "--log-level", "debug", "--", "--simulated", "zero", "--log-level", "debug"])
    service = LiveService(process, f"127.0.0.1:{port}", tmp_path / "log")
    service.log.touch()
    try:
        service.wait_until_serving()
        epoch = service.info().worker_epoch
        os.kill(service.worker_pid(), signal.SIGKILL)
        deadline_s = time.monotonic() + 60
        while service.info().worker_epoch == epoch or not service.is_serving():
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
