"""How the worker is asked to end by whoever started it."""

import signal
import sys
from types import FrameType

from qllm.stop_signals import stop_signals

from gpu_worker.channel.mailbox import Mailbox, Stop


class StopSignals:
    """Turns SIGTERM, SIGINT and SIGHUP into a clean end: at once while loading, later after the running command."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._serving = False

    def install(self) -> None:
        """Takes the signals over, all but a SIGHUP that is ignored, as under nohup; call it on the main thread."""
        for number in stop_signals():
            signal.signal(number, self._handle)

    def serving(self) -> None:
        """From now on the engine takes Stop from the mailbox."""
        self._serving = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._serving:
            sys.exit(0)
        self._mailbox.put(Stop())  # SimpleQueue.put may be called from a signal handler
