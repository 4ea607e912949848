"""`qllm-client bench` as a process of its own."""

import asyncio
import os
import sys
from asyncio.subprocess import Process

from tests.unit.client.in_process import Finished


async def start(*arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qllm.client", "bench", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1"},
    )


async def call(*arguments: str) -> Finished:
    process = await start(*arguments)
    out, err = await asyncio.wait_for(process.communicate(), timeout=300)
    return Finished(process.returncode or 0, out.decode(), err.decode())
