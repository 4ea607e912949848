"""What faults and moments act on: the service, the proxy before it, the clients of one cell, and chance."""

import random
from dataclasses import dataclass, field

from tests.faults.harness.clients import Clients
from tests.faults.harness.job_load import JobLoad
from tests.faults.harness.proxy import Proxy
from tests.faults.harness.service import Service


class Unreachable(Exception):
    """A fault or moment can't be had here; the message says why."""


@dataclass(slots=True)
class Scene:
    """One cell's world.

    Attributes:
        front: The clients' connections go through it.
        jobs: Asks for jobs, once it is told to.
        rng: Decides what is left to chance.
    """

    service: Service
    front: Proxy
    clients: Clients
    jobs: JobLoad
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def worker_pid(self) -> int:
        """Returns the worker; raises Unreachable if there is none."""
        pid = self.service.worker_pid()
        if pid is None:
            raise Unreachable("there is no worker")
        return pid
