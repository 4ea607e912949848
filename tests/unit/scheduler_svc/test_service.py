"""The service as one object: what a signal does before anything has been waited for."""

import asyncio
import contextlib
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


class StuckRunner:
    """Waits for a store that does not answer."""

    async def __aenter__(self) -> "StuckRunner":
        self.task = asyncio.create_task(asyncio.Event().wait())
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.wait((self.task,))


async def test_a_second_signal_does_not_wait_for_a_store_of_jobs_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_svc.service.make_runner", lambda *_: StuckRunner())
    service = Service(Config(control_endpoint=f"ipc://{tmp_path}/control", grpc_port=0, state_dir=tmp_path / "state"))
    running = asyncio.create_task(service.run())
    async with asyncio.timeout(60):
        while service._jobs_task is None:  # noqa: ASYNC110  (there is no event for it)
            await asyncio.sleep(0.01)
        service._stop(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(running), 0.2)
        assert not running.done()
        service._stop(signal.SIGTERM)
        await running
