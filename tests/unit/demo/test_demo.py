import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from qllm.client.bench.load.workload import BE, LS, Poisson

from demo.__main__ import Settings

SETTINGS = Settings("model", seconds=5.0, num_be_clients=3, ls_rate_per_s=2.0, seed=4)


def test_both_policies_meet_the_same_load() -> None:
    idle_first, loaded_only = SETTINGS.plan(num_idle=8), SETTINGS.plan(num_idle=0)
    assert replace(idle_first, num_idle=0) == loaded_only
    ls = loaded_only.workload[LS]
    assert isinstance(ls, Poisson)
    assert list(islice(ls.arrivals(), 5)) == list(islice(ls.arrivals(), 5))
    assert set(loaded_only.workload) == {LS, BE}


def test_further_options_go_to_both_services_and_change_neither_policy_nor_type() -> None:
    settings = replace(SETTINGS, scheduler=("--policy=paper", "--ls-tpot-ms", "20"), worker=("--threads=1",))
    service = settings.service("fcfs")
    assert service.scheduler == ("--policy=paper", "--ls-tpot-ms", "20", "--policy", "fcfs")
    assert service.worker == ("--dtype", "float32", "--threads=1")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--model", "/nowhere"), "--model: got /nowhere"),
        (("--scheduler-arg=--ls-tpot-ms=-3",), "--ls-tpot-ms: got -3"),
        (("--", "--ls-tpot-ms", "-3"), "--ls-tpot-ms: got -3"),
    ],
)
def test_what_the_service_refuses_is_said_with_the_end_of_its_log(options: tuple[str, ...], why: str) -> None:
    command = [sys.executable, "-m", "demo", *options]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 1
    said, *rest = finished.stderr.splitlines()
    assert said.startswith("The demo failed: it never served; the service ended with exit code 2. Its log is ")
    assert any(why in line for line in rest)
    assert "Traceback" not in finished.stderr
    Path(said.removesuffix(" and ends with:").rpartition(" ")[2]).unlink()
