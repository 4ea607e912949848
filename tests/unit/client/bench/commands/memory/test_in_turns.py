import asyncio

import pytest
from qllm.client.bench.commands.memory.in_turns import InTurns
from qllm.client.bench.errors import TargetFailed
from qllm.client.bench.load.grpc_target import GrpcTarget
from qllm.client.bench.options.qllm import QllmOptions
from qllm.client.bench.options.target import ServiceArguments
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.set_ups import Variant

SERVER = QllmOptions(grpc="127.0.0.1:9")


class Script:
    """Measures 1, 2, 3, ...; fails, or is interrupted, at one of them."""

    def __init__(self, *, fails_at: int | None = None, stops_at: int | None = None) -> None:
        self._fails_at = fails_at
        self._stops_at = stops_at
        self._number = 0

    async def measure(self, target: GrpcTarget, bar: ProgressBar, stop: asyncio.Event) -> int | None:
        self._number += 1
        if self._number == self._fails_at:
            raise TargetFailed("it broke")
        if self._number == self._stops_at:
            stop.set()
        return self._number


def in_turns(num_rounds: int) -> InTurns:
    return InTurns(SERVER, ServiceArguments(), [Variant("a"), Variant("b"), Variant("c")], num_rounds)


def test_each_round_begins_with_another_variant() -> None:
    measured, code = in_turns(3).run(Script().measure)
    assert [label for label, _ in measured] == [*"abc", *"bca", *"cab"]
    assert [number for _, number in measured] == list(range(1, 10))
    assert code == 0


def test_what_was_measured_before_a_failure_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    measured, code = in_turns(2).run(Script(fails_at=5).measure)
    assert [label for label, _ in measured] == [*"abc", "b"]
    assert code == 1
    assert "ended early: it broke" in capsys.readouterr().err


def test_a_failure_before_anything_was_measured_ends_the_command() -> None:
    with pytest.raises(TargetFailed, match="it broke"):
        in_turns(2).run(Script(fails_at=1).measure)


def test_an_interrupt_ends_it_with_what_was_measured() -> None:
    measured, _ = in_turns(2).run(Script(stops_at=2).measure)
    assert [label for label, _ in measured] == ["a", "b"]
