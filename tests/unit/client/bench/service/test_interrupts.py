import asyncio
import os
import signal

import pytest
from qllm.client.bench.service.interrupts import Interrupted, Interrupts, run_until_interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_without_results_after_its_clean_up(number: signal.Signals) -> None:
    happened: list[str] = []

    async def command(_: Interrupts) -> None:
        os.kill(os.getpid(), number)
        try:
            await asyncio.sleep(600)
        finally:
            happened.append("cleaned up")

    with pytest.raises(Interrupted) as interrupted:
        run_until_interrupted(command)
    assert interrupted.value.exit_code == 128 + number
    assert happened == ["cleaned up"]


def test_a_signal_leaves_a_command_its_results() -> None:
    async def command(interrupts: Interrupts) -> str:
        with interrupts.keeping_results():
            os.kill(os.getpid(), signal.SIGTERM)
            await interrupts.stop.wait()
            return "half of it"

    assert run_until_interrupted(command) == ("half of it", 143)
