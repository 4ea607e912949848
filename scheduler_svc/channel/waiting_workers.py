"""Workers that came while another one serves: each is told to wait, and all are told when the place may be free.

Decides nothing about who serves. A worker that hears nothing asks again by itself, so that
nothing depends on this memory.
"""

import logging

from scheduler_svc.channel import codec
from scheduler_svc.channel.router import PeerGone, Router

_log = logging.getLogger(__name__)

RETRY_AFTER_S = 10.0  # Hello carries the tokenizer, up to tens of megabytes: not to be sent every second for nothing
_MAX_WAITING = 64


class WaitingWorkers:
    """Those who wait, by their identity.

    Args:
        router: Carries what they are told.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._epochs: dict[bytes, int] = {}

    def add(self, identity: bytes, epoch: int, reason: str, pid: int) -> None:
        """Tells a worker to wait; logged once for each of its epochs."""
        if self._epochs.get(identity) != epoch:
            _log.warning("worker_waits epoch=%016x pid=%d reason=%r", epoch, pid, reason)
        self._epochs[identity] = epoch
        if len(self._epochs) > _MAX_WAITING:
            del self._epochs[next(iter(self._epochs))]
        self._tell(identity, epoch, reason, RETRY_AFTER_S)

    def num_there(self) -> int:
        """Counts those that are still there: the others are forgotten."""
        reason = "the place is taken"
        gone = [one for one, epoch in self._epochs.items() if not self._tell(one, epoch, reason, RETRY_AFTER_S)]
        for identity in gone:
            del self._epochs[identity]
        return len(self._epochs)

    def invite(self) -> None:
        """Has all of them ask again at once; the first to do so gets the place."""
        waiting, self._epochs = self._epochs, {}
        for identity, epoch in waiting.items():
            self._tell(identity, epoch, "the place may be free", 0.0)

    def _tell(self, identity: bytes, epoch: int, reason: str, retry_after_s: float) -> bool:
        """Tells one of them; returns False if it is gone."""
        try:
            self._router.send(identity, [codec.encode_refused(epoch, reason, retry_after_s)])
        except PeerGone:
            return False
        finally:
            self._router.check_readable()
        return True
