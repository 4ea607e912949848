"""The real service as real processes, for tests that go through its front door."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from qllm.v1 import admin_pb2, admin_pb2_grpc, inference_pb2_grpc

ROOT = Path(__file__).parents[3]
START_S = 400.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class LiveService:
    """A running scheduler with its spawned worker.

    Attributes:
        credentials: For a service that speaks TLS.
        metadata: What calls of `loads` and `info` carry.
    """

    process: subprocess.Popen[bytes]
    grpc_address: str
    log: Path
    model_facts: admin_pb2.ModelFacts = field(default_factory=admin_pb2.ModelFacts)
    credentials: grpc.ChannelCredentials | None = None
    metadata: tuple[tuple[str, str], ...] = ()

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        with (
            grpc.insecure_channel(self.grpc_address)
            if self.credentials is None
            else grpc.secure_channel(self.grpc_address, self.credentials)
        ) as channel:
            yield channel

    def inference(self, channel: grpc.Channel) -> inference_pb2_grpc.InferenceServiceStub:
        return inference_pb2_grpc.InferenceServiceStub(channel)

    def is_serving(self) -> bool:
        with self.channel() as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def loads(self) -> admin_pb2.GetLoadsResponse:
        with self.channel() as channel:
            request = admin_pb2.GetLoadsRequest()
            return admin_pb2_grpc.AdminServiceStub(channel).GetLoads(request, timeout=120, metadata=self.metadata)

    def info(self) -> admin_pb2.GetServerInfoResponse:
        with self.channel() as channel:
            request = admin_pb2.GetServerInfoRequest()
            return admin_pb2_grpc.AdminServiceStub(channel).GetServerInfo(request, timeout=120, metadata=self.metadata)

    def wait_until_serving(self) -> None:
        deadline = time.monotonic() + START_S
        while not self.is_serving():
            assert self.process.poll() is None, f"the service ended:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"the service does not serve:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.1)

    def worker_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(pid) for pid in children if b"gpu_worker" in Path(f"/proc/{pid}/cmdline").read_bytes())


@contextmanager
def start_service(
    model: Path,
    log: Path,
    *options: str,
    worker_options: tuple[str, ...] = (),
    under: tuple[str, ...] = (),
    credentials: grpc.ChannelCredentials | None = None,
    metadata: tuple[tuple[str, str], ...] = (),
) -> Iterator[LiveService]:
    """Starts a service on a free port, waits until it serves, and stops it properly; the command `under` runs it."""
    port = free_port()
    command = [
        *under,
        sys.executable,
        "-m",
        "scheduler_svc",
        "--model",
        str(model),
        "--spawn-worker",
        "--grpc-port",
        str(port),
    ]
    command += [*options, "--", "--dtype", "float32", "--threads", "1", "--kv-memory", "50MiB", *worker_options]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stderr=sink, start_new_session=True)
    service = LiveService(process, f"127.0.0.1:{port}", log, credentials=credentials, metadata=metadata)
    try:
        service.wait_until_serving()
        service.model_facts = service.info().model
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def _environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "protos"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
