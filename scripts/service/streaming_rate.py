"""Measures how many tokens a second the service streams when the model takes no time: what all but the model costs.

    python -m scripts.service.streaming_rate                    # 256 streams, a simulated worker whose work is free
    python -m scripts.service.streaming_rate --iteration-ms 15  # beside iterations of 15 ms: does the worker wait?

Starts a service with a simulated worker and as many client processes as asked for, all on this machine. Each stream
sends one request after the other. After a warm-up, tokens are counted for a while, beside the processor time of each
process and what the worker says of its idle time.
"""

import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated

import grpc
import typer
from qllm import AsyncClient, RequestClass
from qllm.client.bench.service.interrupts import run_interruptibly
from qllm.client.bench.service.service import ServiceOptions, running_service
from qllm.v1 import inference_pb2 as pb
from qllm.v1 import inference_pb2_grpc as pb_grpc

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PROMPT = tuple(range(10, 42))


class ClientKind(StrEnum):
    """How the clients read: with this repository's client, or with a bare gRPC stub."""

    QLLM = "qllm"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class ClientWork:
    """What one client process does.

    Attributes:
        address: The service.
        num_streams: Streams at a time.
        max_tokens: Tokens of one request.
        request_class: Class of all requests.
        kind: How it reads.
    """

    address: str
    num_streams: int
    max_tokens: int
    request_class: RequestClass
    kind: ClientKind


@dataclass(slots=True)
class Counts:
    """What was received so far."""

    num_tokens: int = 0
    num_messages: int = 0


def client_process(work: ClientWork, parent: Connection) -> None:
    """Streams until told to stop; answers each line of the parent's with its counts."""
    asyncio.run(_stream_all(work, parent))


async def _stream_all(work: ClientWork, parent: Connection) -> None:
    counts = Counts()
    tasks: list[asyncio.Task[None]] = []
    options = [("grpc.enable_http_proxy", 0)]
    async with AsyncClient(work.address) as client, grpc.aio.insecure_channel(work.address, options) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        async with asyncio.TaskGroup() as group:
            for number in range(work.num_streams):
                read = (
                    _read_with_client(client, work, counts, number)
                    if work.kind is ClientKind.QLLM
                    else _read_with_stub(stub, work, counts, number)
                )
                tasks.append(group.create_task(read))
            while await asyncio.to_thread(parent.recv):
                parent.send(counts)
            for task in tasks:
                task.cancel()


async def _read_with_client(client: AsyncClient, work: ClientWork, counts: Counts, number: int) -> None:
    prompt = (*_PROMPT, number)
    while True:
        stream = client.generate(prompt, request_class=work.request_class, max_tokens=work.max_tokens, ignore_eos=True)
        async for delta in stream:
            counts.num_tokens += len(delta.token_ids)
            counts.num_messages += 1


async def _read_with_stub(
    stub: "pb_grpc.InferenceServiceAsyncStub", work: ClientWork, counts: Counts, number: int
) -> None:
    classes = {
        RequestClass.LATENCY_SENSITIVE: pb.REQUEST_CLASS_LATENCY_SENSITIVE,
        RequestClass.BEST_EFFORT: pb.REQUEST_CLASS_BEST_EFFORT,
    }
    request = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=(*_PROMPT, number)),
        request_class=classes[work.request_class],
        stop=pb.StopConditions(max_tokens=work.max_tokens, ignore_eos=True),
    )
    while True:
        async for message in stub.Generate(request):
            counts.num_tokens += len(message.token_ids)
            counts.num_messages += 1


class Clients:
    """The client processes."""

    def __init__(self, shares: list[ClientWork]) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        for work in shares:
            mine, theirs = context.Pipe()
            process = context.Process(target=client_process, args=(work, theirs), daemon=True)
            process.start()
            self.processes.append(process)
            self._connections.append(mine)

    def counts(self) -> Counts:
        """Returns what all have received so far."""
        for connection in self._connections:
            connection.send(True)
        received: list[Counts] = [connection.recv() for connection in self._connections]
        return Counts(sum(each.num_tokens for each in received), sum(each.num_messages for each in received))

    def stop(self) -> None:
        """Ends them."""
        for connection in self._connections:
            connection.send(False)
        for process in self.processes:
            process.join(5)
            process.kill()


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at one moment; times in seconds."""

    now_s: float
    counts: Counts
    cpu_s: dict[str, float]
    worker_busy_s: float
    worker_waited_s: float


async def _sample(client: AsyncClient, clients: Clients, service_pids: dict[str, int]) -> Sample:
    counts = await asyncio.to_thread(clients.counts)
    loads = await client.loads()
    cpu_s = {name: _cpu_s(pid) for name, pid in service_pids.items()}
    cpu_s["clients"] = sum(_cpu_s(process.pid or 0) for process in clients.processes)
    return Sample(time.perf_counter(), counts, cpu_s, loads.busy_ns * 1e-9, loads.control_idle_ns * 1e-9)


def _cpu_s(pid: int) -> float:
    """Processor time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def _service_pids() -> dict[str, int]:
    """Finds the scheduler among the children of this process, and the worker among the scheduler's."""
    scheduler = next(pid for pid in _children(os.getpid()) if b"scheduler_svc" in _command_line(pid))
    worker = next(pid for pid in _children(scheduler) if b"gpu_worker" in _command_line(pid))
    return {"scheduler": scheduler, "worker": worker}


def _children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _print_report(before: Sample, after: Sample) -> None:
    seconds = after.now_s - before.now_s
    num_tokens = after.counts.num_tokens - before.counts.num_tokens
    num_messages = after.counts.num_messages - before.counts.num_messages
    print(f"tokens/s     {num_tokens / seconds:.0f}")
    print(f"messages/s   {num_messages / seconds:.0f}, {num_tokens / max(1, num_messages):.2f} tokens each")
    for name, cpu_s in after.cpu_s.items():
        print(f"{name:12} {(cpu_s - before.cpu_s[name]) / seconds:.2f} cores")
    busy = (after.worker_busy_s - before.worker_busy_s) / seconds
    waited = (after.worker_waited_s - before.worker_waited_s) / seconds
    print(f"worker       {busy:.1%} of the time in commands, {waited:.1%} idle between them while there was work")


@contextmanager
def _table(iteration_ms: float) -> Iterator[str]:
    """Yields a cost table whose iterations take so long, whatever is in them."""
    if not iteration_ms:
        yield "zero"
        return
    num_layers = 4
    table = {
        "name": "simulated-fixed",
        "source": f"Made up: iterations of {iteration_ms} ms.",
        "num_layers": num_layers,
        "num_experts": 8,
        "num_experts_per_token": 2,
        "max_model_len": 32768,
        "num_blocks": 65536,
        "num_host_blocks": 0,
        "attention_us": {"fixed": iteration_ms * 1e3 / num_layers, "per_token": 0, "per_pair": 0},
        "expert_us": {"fixed": 0, "per_token": 0},
        "head_us": {"fixed": 0, "per_row": 0},
    }
    with tempfile.TemporaryDirectory(prefix="qllm-") as directory:
        path = Path(directory) / "table.json"
        path.write_text(json.dumps(table))
        yield str(path)


async def _measure(
    model: str, table: str, work: ClientWork, num_processes: int, warm_up_s: float, measure_s: float, options: list[str]
) -> None:
    sizes = [work.num_streams // num_processes + (i < work.num_streams % num_processes) for i in range(num_processes)]
    num_seqs = str(work.num_streams)
    limits = ("--max-num-seqs", num_seqs, "--ls-chunk-tokens", "4096", "--be-chunk-tokens", "4096", *options)
    service = ServiceOptions(model, scheduler=limits, worker=("--simulated", table))
    async with running_service(service) as address, AsyncClient(address) as client:
        service_pids = _service_pids()
        clients = Clients(
            [ClientWork(address, size, work.max_tokens, work.request_class, work.kind) for size in sizes if size]
        )
        try:
            await asyncio.sleep(warm_up_s)
            before = await _sample(client, clients, service_pids)
            await asyncio.sleep(measure_s)
            after = await _sample(client, clients, service_pids)
        finally:
            await asyncio.to_thread(clients.stop)
    _print_report(before, after)


def streaming_rate(
    streams: Annotated[int, typer.Option(min=1, help="Streams at a time, in all.")] = 256,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one request.")] = 1024,
    request_class: Annotated[
        RequestClass, typer.Option(help="Class of the requests.")
    ] = RequestClass.LATENCY_SENSITIVE,
    iteration_ms: Annotated[
        float, typer.Option(min=0, help="Time that the simulated worker takes for an iteration.")
    ] = 0,
    client: Annotated[ClientKind, typer.Option(help="How the clients read.")] = ClientKind.QLLM,
    client_processes: Annotated[int, typer.Option(min=1, help="Processes that the streams are divided among.")] = 1,
    warm_up_s: Annotated[float, typer.Option(min=0, help="Seconds before counting.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of counting.")] = 10,
    model: Annotated[str, typer.Option(help="Directory with a tokenizer.")] = "demo/model",
    option: Annotated[
        list[str] | None, typer.Option(help="A further argument of qllm-scheduler; may be repeated.")
    ] = None,
) -> None:
    """Prints tokens/s over all streams, what each process took of the machine, and how idle the worker was."""
    work = ClientWork("", streams, max_tokens, request_class, client)
    with _table(iteration_ms) as table:
        run_interruptibly(lambda _: _measure(model, table, work, client_processes, warm_up_s, seconds, option or []))


if __name__ == "__main__":
    typer.run(streaming_rate)
