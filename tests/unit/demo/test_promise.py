import pytest

from client.bench.errors import BenchError
from client.bench.results.summary import Targets
from client.bench.service.service import ServiceOptions
from demo.__main__ import Settings
from demo.promise import promised, targets_in


async def test_the_time_per_token_is_the_one_in_force_in_the_service() -> None:
    options = Settings("demo/model", 5.0, 3, 2.0, 4, scheduler=("--ls-tpot-ms", "20")).service("fcfs")
    assert await promised(options) == Targets(ttft_to_idle=1.5, tpot_ms=20.0)


async def test_options_that_the_service_refuses_are_told_in_its_own_words() -> None:
    with pytest.raises(BenchError, match=r"^qllm-scheduler: --ls-tpot-ms: got -3, allowed is .*$"):
        await promised(ServiceOptions("demo/model", ("--ls-tpot-ms=-3",)))


def test_a_service_that_promises_no_time_per_token_is_measured_by_the_usual_one() -> None:
    assert targets_in("--ls-tpot-ms  0  default\n").tpot_ms == Targets().tpot_ms == 50.0
    assert targets_in("--policy  fcfs  default\n\n").tpot_ms == 50.0
