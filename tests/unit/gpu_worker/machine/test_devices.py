"""After an error a device either goes on another way, or ends the worker with both errors in its message."""

from inspect import unwrap
from typing import Any

import pytest
import torch

from gpu_worker import __main__ as command
from gpu_worker.errors import DeviceLost
from gpu_worker.machine.devices import check_alive
from gpu_worker.settings import WorkerConfig

CUDA = torch.device("cuda", 0)
REFUSED = ValueError("no such kernel")


def astray(device: torch.device) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`")


def test_a_device_that_still_answers_is_alive() -> None:
    waited: list[torch.device] = []
    check_alive(CUDA, REFUSED, waited.append)
    assert waited == [CUDA]


def test_one_that_fails_whatever_it_is_asked_is_lost_and_the_message_has_the_first_error_too() -> None:
    with pytest.raises(DeviceLost, match=r"cuda:0 .* illegal memory access .*\(after no such kernel\)") as lost:
        check_alive(CUDA, REFUSED, astray)
    assert "\n" not in str(lost.value)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_host_is_never_lost(device: str) -> None:
    check_alive(torch.device(device), REFUSED, astray)


def test_a_lost_device_ends_the_worker_with_the_code_after_which_another_is_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run(config: Any) -> None:
        raise DeviceLost("cuda:0 can be used no more: an illegal memory access")

    monkeypatch.setattr(command, "run", run)
    with pytest.raises(SystemExit) as exit_of_worker:
        unwrap(command.serve)(WorkerConfig(control_endpoint="ipc:///control", model="m"))
    assert exit_of_worker.value.code == 1
    assert "cuda:0 can be used no more" in caplog.messages[-1]
