"""Several processes that hold one model together, each a slice of every matrix (tensor parallelism).

    scheduler ──ZeroMQ──▶ rank 0: Engine ▶ LeadingExecutor ──command──▶ rank 1: follow
                                              │                            │
                                        RunnerExecutor  ◀──all-reduce──▶  RunnerExecutor

Every rank runs the same commands on its slice, and stands at the same cursor: before each unit of work rank 0
says whether the step goes on. torchrun starts the ranks; transformers slices the model (`tp_plan`) and sums up
inside the forward.
"""

import logging
from array import array
from collections.abc import Sequence
from datetime import timedelta
from enum import IntEnum

import torch
import torch.distributed as dist

from gpu_worker.channel.codec import decode_frame, encode_command
from gpu_worker.contract.commands import Advance, Command, DropSequence, OffloadSequence, RestoreSequence
from gpu_worker.contract.executor import Executor, GoesOn
from gpu_worker.contract.results import AdvanceOutcome, BatchError, IntegrityReport
from gpu_worker.errors import CacheLost, CommandRefused

_log = logging.getLogger(__name__)

_BATCH_IDS = "Q"  # whole numbers of 64 bits, as the wire format has them
_READING = timedelta(hours=2)  # what ranks may be apart while the model is read; as transformers has it
_FOREVER = timedelta(days=365)  # that is how long a rank may wait for the next command


class _Kind(IntEnum):
    APPLY = 0
    ADVANCE = 1
    ABANDON = 2
    FORGET_ALL = 3
    STOP = 4


class Ranks:
    """This process among those that hold the model; all must make it, and call the same methods in the same order.

    On hosts they meet here, if they have not yet; on devices transformers has them meet, when it has read the model.
    """

    def __init__(self) -> None:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=_READING)
        self.rank = dist.get_rank()
        self._group = dist.new_group(backend="gloo", timeout=_FOREVER)  # frames lie in host memory whatever the device

    def share(self, kind: int = 0, frame: bytes = b"") -> tuple[int, bytes]:
        """Hands a frame of rank 0 to all; what the others give does not count."""
        head = torch.tensor([kind, len(frame)], dtype=torch.int64)
        dist.broadcast(head, src=0, group=self._group)
        kind, length = head.tolist()
        if not length:
            return kind, b""
        body = torch.zeros(length, dtype=torch.uint8)
        if self.rank == 0:
            body = torch.frombuffer(bytearray(frame), dtype=torch.uint8)
        dist.broadcast(body, src=0, group=self._group)
        return kind, body.numpy().tobytes()

    def share_flag(self, flag: bool = False) -> bool:
        """Hands a yes or no of rank 0 to all."""
        told = torch.tensor([flag], dtype=torch.uint8)
        dist.broadcast(told, src=0, group=self._group)
        return bool(told.item())

    def least(self, number: int) -> int:
        """Returns the least of all ranks' numbers."""
        found = torch.tensor([number], dtype=torch.int64)
        dist.all_reduce(found, op=dist.ReduceOp.MIN, group=self._group)
        return int(found.item())


class LeadingExecutor:
    """The executor of rank 0: carries commands out with all others.

    Args:
        executor: Carries them out here.
        ranks: Who else does.
    """

    def __init__(self, executor: Executor, ranks: Ranks) -> None:
        self._executor = executor
        self._ranks = ranks

    def apply(self, command: Command) -> None:
        """Carries out a command other than Advance; raises as the executor does, a CacheLost of any rank too."""
        self._ranks.share(_Kind.APPLY, encode_command(command))
        _apply(self._executor, command, self._ranks)

    def advance(self, advance: Advance, goes_on: GoesOn) -> AdvanceOutcome:
        """Runs batches on, asking `goes_on` before each unit; raises CommandRefused, and then nothing has run."""
        self._ranks.share(_Kind.ADVANCE, encode_command(advance))
        return self._executor.advance(advance, lambda cursor: self._ranks.share_flag(goes_on(cursor)))

    def abandon(self, batch_ids: Sequence[int], message: str) -> list[BatchError]:
        """Forgets the batches of an advance that raised; returns each as failed."""
        self._ranks.share(_Kind.ABANDON, array(_BATCH_IDS, batch_ids).tobytes())
        return self._executor.abandon(batch_ids, message)

    def check(self, check_id: int) -> IntegrityReport:
        """Says what is held here, which is as much as on every other rank, and what of it contradicts itself."""
        return self._executor.check(check_id)

    def forget_all(self) -> None:
        """Forgets every sequence and batch."""
        self._ranks.share(_Kind.FORGET_ALL)
        self._executor.forget_all()

    def stop(self) -> None:
        """Lets the others end."""
        self._ranks.share(_Kind.STOP)


def follow(executor: Executor, ranks: Ranks) -> None:
    """Carries out what rank 0 does, until it stops; what is refused there is refused here, and reported there."""
    while True:
        kind, frame = ranks.share()
        try:
            match _Kind(kind):
                case _Kind.APPLY | _Kind.ADVANCE:
                    command = decode_frame(frame)
                    if isinstance(command, Advance):
                        executor.advance(command, lambda _: ranks.share_flag())
                    else:
                        _apply(executor, command, ranks)
                case _Kind.ABANDON:
                    executor.abandon(array(_BATCH_IDS, frame), "")
                case _Kind.FORGET_ALL:
                    executor.forget_all()
                case _Kind.STOP:
                    return
        except (CommandRefused, CacheLost) as refusal:
            _log.warning("rank=%d refused error=%s", ranks.rank, refusal)
        except Exception:  # rank 0 met the same, and says what is to be done
            _log.exception("rank=%d failed", ranks.rank)


def _apply(executor: Executor, command: Command, ranks: Ranks) -> None:
    """Carries out a command here as all ranks do; a cache of which one rank's slice is lost is lost to all of them."""
    if not isinstance(command, OffloadSequence | RestoreSequence):
        executor.apply(command)
        return
    lost = None
    try:
        executor.apply(command)
    except CacheLost as error:
        lost = error
    if ranks.least(int(lost is None)):
        return
    if lost is None:
        executor.apply(DropSequence(command.seq_id))
        lost = CacheLost(command.seq_id, f"the cache of sequence {command.seq_id} is lost to another rank")
    raise lost
