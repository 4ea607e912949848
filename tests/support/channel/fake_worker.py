"""A worker process without a model: the real link and engine around an executor that only sleeps.

Run as a program. A batch id says what an Advance of it does: see BATCHES_THAT_*.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import zmq.auth
from qllm.protocol import PROTOCOL_VERSION
from qllm.v1 import control_pb2

from gpu_worker.channel.engine import Engine, FatalEngineError
from gpu_worker.channel.link import CurveClient, SchedulerLink
from gpu_worker.channel.mailbox import Mailbox, Progress, Stop
from gpu_worker.contract.commands import AddSequence, Advance, Command, DropSequence
from gpu_worker.contract.executor import GoesOn
from gpu_worker.contract.results import AdvanceOutcome, BatchError, SampledToken, WorkTiming
from gpu_worker.cursor import Cursor
from gpu_worker.errors import CommandRefused, WorkerRefused

BATCH_THAT_HANGS_FOR_4_S = 101
BATCH_THAT_HANGS_FOREVER = 102
BATCH_THAT_IS_LONG_BUT_ALIVE_FOR_3_S = 103
BATCH_THAT_IS_REFUSED = 104
BATCH_THAT_RAISES = 105
BATCH_THAT_BREAKS_THE_DEVICE = 106
BATCH_WITH_AN_INVALID_RESULT = 107


class SleepingExecutor:
    def __init__(self) -> None:
        self.seq_ids: set[int] = set()

    def apply(self, command: Command) -> None:
        match command:
            case AddSequence(seq_id):
                self.seq_ids.add(seq_id)
            case DropSequence(seq_id):
                if seq_id not in self.seq_ids:
                    raise CommandRefused(f"sequence {seq_id} is not known")
                self.seq_ids.discard(seq_id)

    def advance(self, advance: Advance, goes_on: GoesOn) -> AdvanceOutcome:
        tokens = []
        match advance.batch_ids[0]:
            case 101:
                time.sleep(4)
            case 102:
                time.sleep(3600)
            case 103:
                for _ in range(150):
                    time.sleep(0.02)
                    goes_on(Cursor(0))
            case 104:
                raise CommandRefused("batch 104 is not known")
            case 105:
                raise ValueError("this model raises")
            case 106:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            case 107:
                tokens.append(SampledToken(1, 10**9, 0.0, None))
        # What the worker knows, for the tests to see.
        num_known = len(self.seq_ids)
        timing = WorkTiming(attention_tokens=num_known)
        return AdvanceOutcome(advance.until, tokens, timing=timing, suspended_bytes=num_known)

    def abandon(self, batch_ids: Sequence[int], message: str) -> list[BatchError]:
        return [BatchError(batch_id, (1,), message) for batch_id in batch_ids]

    def forget_all(self) -> None:
        self.seq_ids.clear()


def hello(protocol_version: int = PROTOCOL_VERSION) -> control_pb2.Hello:
    model = control_pb2.WorkerModel(
        name="fake", family="none", num_layers=2, experts_by_layer=[0, 4], num_experts_per_token=2, vocab_size=100,
        eos_token_ids=[1], max_model_len=64, block_size=16, num_blocks=8, num_host_blocks=2, dtype="float32",
        quantization="none", device="cpu", tokenizer_json=b"{}", special_tokens={"bos_token": "<s>"},
    )  # fmt: skip
    timing = control_pb2.WorkTiming(num_expert_runs=1, expert_tokens=1, expert_ns=5)
    return control_pb2.Hello(protocol_version=protocol_version, model=model, calibration=[timing], pid=os.getpid())


def curve_client(directory: Path | None) -> CurveClient | None:
    if directory is None:
        return None
    public, secret = zmq.auth.load_certificate(directory / "worker.key_secret")
    server, _ = zmq.auth.load_certificate(directory / "server.key")
    assert secret is not None
    return CurveClient(public, secret, server)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-endpoint", required=True)
    parser.add_argument("--protocol-version", type=int, default=PROTOCOL_VERSION)
    parser.add_argument("--scheduler-timeout-s", type=float, default=15.0)
    parser.add_argument("--curve", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s fake_worker %(message)s")
    mailbox, progress = Mailbox(), Progress()
    link = SchedulerLink(
        options.control_endpoint, hello(options.protocol_version), mailbox, progress,
        curve=curve_client(options.curve), scheduler_timeout_s=options.scheduler_timeout_s,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: mailbox.put(Stop()))
    link.start()
    try:
        Engine(mailbox, SleepingExecutor(), link, progress).run()
    except FatalEngineError:
        return 1
    except WorkerRefused as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 2
    finally:
        link.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
