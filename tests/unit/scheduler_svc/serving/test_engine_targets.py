"""What a request itself asks for is what the core plans by, and what the request is judged by."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scheduler_svc.core.state.sequence import Targets
from tests.support.service.engine_bench import NO_TARGETS, EngineBench


def is_met(bench: EngineBench, target: str) -> bool:
    """Whether the only request met a target."""
    families = text_string_to_metric_families(bench.engine.metrics().decode())
    counts = {one.name: one.value for f in families for one in f.samples if one.labels.get("target") == target}
    assert counts["qllm:target_requests_total"] == 1
    return counts["qllm:target_requests_met_total"] == 1


@pytest.mark.parametrize(
    ("own", "first_token", "time_per_token"),
    [(Targets(60.0, 60.0), True, True), (Targets(1e-9, 60.0), False, True), (Targets(60.0, 1e-9), True, False)],
)
async def test_a_request_is_judged_by_its_own_targets(own: Targets, first_token: bool, time_per_token: bool) -> None:
    bench = EngineBench()
    bench.submit("a", 5, targets=own)
    while bench.steps:
        bench.answer()
    assert (is_met(bench, "first_token"), is_met(bench, "time_per_token")) == (first_token, time_per_token)


@pytest.mark.parametrize("waits_s", [0.5, None])
async def test_of_those_that_wait_the_one_whose_deadline_is_near_goes_first(waits_s: float | None) -> None:
    bench = EngineBench()
    deadline_s = None if waits_s is None else asyncio.get_running_loop().time() + waits_s
    bench.submit("running", 20)
    bench.submit("earlier", 2)
    bench.submit("later", 2, targets=NO_TARGETS, deadline_s=deadline_s)
    while not (begun := [item.seq_id for item in bench.starts[max(bench.starts)].items if item.seq_id > 1]):
        bench.answer()
    assert begun == ([2, 3] if waits_s is None else [3, 2])
