"""The number of threads is not settled while others hold the cores, and a worker that cannot wait for them says so."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpu_worker import startup
from gpu_worker.sequences import WorkTiming

RUNNER: Any = None  # only handed on
TRIAL_S = 4.0


class Machine:
    """Takes 100 ms for an iteration with one thread, and with two 60, or 300 while others hold the cores.

    Args:
        busy_trials: For how many trials they do.
    """

    def __init__(self, busy_trials: int) -> None:
        self._busy_trials = busy_trials
        self.num_threads = 0
        self.num_trials = 0

    def set_num_threads(self, number: int) -> None:
        self.num_threads = number

    def warm_up(self, *_: object) -> list[WorkTiming]:
        two_ms = 300 if self.num_trials < self._busy_trials else 60
        ms = 100 if self.num_threads == 1 else two_ms
        self.num_trials += self.num_threads == 2
        return [WorkTiming(1, 256, 0, ms * 1_000_000)]

    def monotonic(self) -> float:
        return self.num_trials * TRIAL_S


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Machine:
    machine = Machine(request.param)
    monkeypatch.setattr(torch, "set_num_threads", machine.set_num_threads)
    monkeypatch.setattr(startup, "warm_up", machine.warm_up)
    monkeypatch.setattr(startup, "time", SimpleNamespace(monotonic=machine.monotonic))
    return machine


@pytest.mark.parametrize("machine", [0, 3], indirect=True, ids=["quiet", "busy for a while"])
def test_threads_are_chosen_by_what_they_do_on_free_cores(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    timings = startup._warm_up_threads(RUNNER, range(1), (1, 2))
    assert machine.num_threads == 2
    assert min(timing.attention_ns for timing in timings) == 60_000_000
    assert "held the cores" not in caplog.text


@pytest.mark.parametrize("machine", [1000], indirect=True, ids=["busy on and on"])
def test_a_worker_serves_all_the_same_and_says_that_its_threads_may_be_too_few(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        startup._warm_up_threads(RUNNER, range(1), (1, 2))
    assert machine.num_threads == 1
    assert machine.num_trials <= 6
    assert "held the cores" in caplog.text
    assert "--threads" in caplog.text


@pytest.mark.parametrize("machine", [0], indirect=True, ids=["quiet"])
def test_a_number_that_was_given_is_tried_once(machine: Machine) -> None:
    startup._warm_up_threads(RUNNER, range(1), (2,))
    assert machine.num_trials == 1
