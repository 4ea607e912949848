"""The service as one object: what a signal does before anything has been waited for."""

import asyncio
import signal
from pathlib import Path

import pytest

from scheduler_svc.service import Service
from scheduler_svc.settings import Config


@pytest.mark.parametrize("how", ["a signal", "Drain"])
async def test_new_requests_are_refused_as_soon_as_the_service_is_told_to_stop(tmp_path: Path, how: str) -> None:
    service = Service(Config(control_endpoint=f"ipc://{tmp_path}/control", grpc_port=0))
    running = asyncio.create_task(service.run())
    await asyncio.sleep(0)
    assert not service._texts.entrance.is_closed
    if how == "a signal":
        service._stop(signal.SIGTERM)
    else:
        service._drain(None)
    assert service._texts.entrance.is_closed
    async with asyncio.timeout(60):
        await running
