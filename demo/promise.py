"""What the service promises latency-sensitive requests: asks it for the setting in force, before anything is started.

`--check-config` is what says so: a setting may come from the command line, the environment, a file or its default.
"""

import asyncio
from asyncio.subprocess import DEVNULL, PIPE

from client.bench.errors import BenchError
from client.bench.results.summary import Targets
from client.bench.service.service import ServiceOptions

_SETTING = "--ls-tpot-ms"


async def promised(options: ServiceOptions) -> Targets:
    """Returns the targets of a service with these options.

    Raises:
        BenchError: The service refuses the options.
    """
    asked = ServiceOptions(options.model, (*options.scheduler, "--check-config"), options.worker)
    process = await asyncio.create_subprocess_exec(*asked.command(port=0), stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    said, complaint = await process.communicate()
    if process.returncode != 0:
        raise BenchError(complaint.decode().strip() or f"--check-config ended with exit code {process.returncode}")
    return targets_in(said.decode())


def targets_in(table: str) -> Targets:
    """Returns the targets that a table of settings in force says; the usual time per token where it promises none."""
    words = (line.split() for line in table.splitlines())
    tpot_ms = next((float(value) for name, value, *_ in (one for one in words if len(one) > 1) if name == _SETTING), 0)
    return Targets(tpot_ms=tpot_ms) if tpot_ms else Targets()
