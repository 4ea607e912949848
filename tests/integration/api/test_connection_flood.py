"""Floods of silent connections keep nobody out, fill no log, and leave descriptors for the next worker."""

import http.client
import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from tests.support.service.live_service import ROOT, LiveService, free_port, start_service

MAX_DESCRIPTORS = 400  # of which each front end may take 72
NUM_SILENT = 300
UNDER_THE_LIMIT = ("sh", "-c", f'ulimit -n {MAX_DESCRIPTORS}; exec "$@"', "sh")


def health(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/health")
    status = connection.getresponse().status
    connection.close()
    return status


def num_descriptors(service: LiveService) -> int:
    return len(os.listdir(f"/proc/{service.process.pid}/fd"))


def wait_for_another_worker(service: LiveService) -> None:
    deadline = time.monotonic() + 60
    while (started := service.log.read_text()).count("worker_ready") < 2:
        assert service.process.poll() is None, started[-4000:]
        assert time.monotonic() < deadline, started[-4000:]
        time.sleep(0.1)


def test_silent_connections_keep_nobody_out_and_a_worker_is_started_beside_them(log: Path) -> None:
    port = free_port()
    options = ("--http-port", str(port))
    worker = ("--simulated", "zero")
    with (
        start_service(ROOT / "demo" / "model", log, *options, worker_options=worker, under=UNDER_THE_LIMIT) as service,
        ExitStack() as flood,
    ):
        grpc_port = int(service.grpc_address.rpartition(":")[2])
        for _ in range(NUM_SILENT):
            flood.enter_context(socket.create_connection(("127.0.0.1", port)))
            flood.enter_context(socket.create_connection(("127.0.0.1", grpc_port)))
        assert health(port) == 200
        assert num_descriptors(service) < MAX_DESCRIPTORS
        os.kill(service.worker_pid(), signal.SIGKILL)
        wait_for_another_worker(service)
        assert health(port) == 200
    assert len(log.read_text().splitlines()) < 60
