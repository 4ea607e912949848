"""Drives a scheduler core: asks it what to send after each event and whenever it wants to be asked, and sends that.

    something happened ──▶ pump ──▶ core.schedule ──▶ commands out
                            ▲                └──▶ wakeup_s ──▶ timer ──┐
                            └──────────────────────────────────────────┘

The core has no clock and sends nothing by itself. A core that raises contradicts itself: that ends the process.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.state.commands import Command

_log = logging.getLogger(__name__)

T = TypeVar("T")


class CoreDriver:
    """Drives the core of one life of a worker after the other.

    Args:
        send: Hands commands to the worker, in order, without waiting.
        on_fatal: Called with an error that should end the process.

    Attributes:
        core: The core that is driven; None while no worker is there.
    """

    def __init__(self, send: Callable[[Sequence[Command]], object], on_fatal: Callable[[BaseException], None]) -> None:
        self._send = send
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.core: Scheduler | None = None

    def now_s(self) -> float:
        """Returns the time that the core is told."""
        return self._loop.time()

    def drive(self, core: Scheduler | None) -> None:
        """Drives another core, or none, from now on."""
        self.close()
        self.core = core

    def call(self, act: Callable[[Scheduler], T]) -> T | None:
        """Calls the core, if there is one; an error in there is a defect that must not go unnoticed."""
        if self.core is None:
            return None
        try:
            return act(self.core)
        except Exception as error:
            _log.exception("core_failed")
            self._on_fatal(error)
            return None

    def pump(self) -> None:
        """Sends what the core wants sent now, and sets the timer for when it wants to be asked again."""
        self.close()  # the core says anew when it wants to be asked
        commands = self.call(lambda core: core.schedule(self._loop.time()))
        if commands:
            # A worker that is gone is reported later, so that no core vanishes under this call.
            self._send(commands)
        if self.core is not None and self.core.wakeup_s is not None:
            self._timer = self._loop.call_at(self.core.wakeup_s, self.pump)

    def close(self) -> None:
        """Asks the core no more by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
