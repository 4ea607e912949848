import pytest
from qllm.client.bench.errors import BenchError
from qllm.client.bench.load.trace import Trace, TraceRow
from qllm.client.bench.simulation.simulator import job_of
from qllm.client.bench.simulation.sweep import (
    ALONE,
    SIMULATED,
    Axis,
    apply_settings,
    choose_set_ups,
    parse_values,
    points,
)
from qllm.client.bench.simulation.traffic import Mix, MixedLoad, ReplayedTrace
from qllm.settings import settings_of

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.simulation.job import parse_job

TRACE = ReplayedTrace(Trace.of([TraceRow(0.0, 5, 5)]), "t.csv")
NOBODY: dict[str, object] = {"requests": []}


@pytest.mark.parametrize("axis", Axis)
def test_each_axis_varies_one_thing_and_leaves_the_other_points_settings_alone(axis: Axis) -> None:
    swept = points(axis, axis.values, Mix(), SIMULATED)
    assert [point.value for point in swept] == list(axis.values)
    varies_traffic = len({point.traffic for point in swept}) > 1
    varies_set_ups = len({str(point.set_ups) for point in swept}) > 1
    assert varies_traffic != varies_set_ups


def test_the_baseline_is_always_among_the_set_ups() -> None:
    assert [set_up.label for set_up in choose_set_ups(["qllm-expert"])] == ["fcfs", "qllm-expert"]
    assert choose_set_ups([]) == list(SIMULATED)


def test_settings_reach_the_part_of_the_core_that_they_belong_to() -> None:
    (first, *_) = apply_settings(SIMULATED, ["ls_tpot_s=0.1", "min_share=0.2", "max_num_seqs=8"])
    job = parse_job(job_of(first, "a100-mixtral-8x7b", NOBODY))
    assert job.limits.ls_tpot_s == 0.1
    assert job.limits.max_num_seqs == 8
    assert isinstance(job.limits.max_num_seqs, int)
    assert job.starvation == StarvationLimits(min_share=0.2)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(BenchError, match=r"--values: got .1,x."):
        parse_values("1,x")
    with pytest.raises(BenchError, match="--values: got 2, allowed for ls-share is 0 to 1"):
        points(Axis.LS_SHARE, [2.0], Mix(), SIMULATED)
    with pytest.raises(BenchError, match=r"--values: got 0, allowed for quantum is 0.1 to 10000"):
        points(Axis.QUANTUM, [0.0], Mix(), SIMULATED)
    with pytest.raises(BenchError, match=r"--values: got 10000\.001, allowed for rate is 0\.001 to 10000"):
        points(Axis.RATE, [10_000.001], Mix(), SIMULATED)
    with pytest.raises(BenchError, match="--sweep rate: a trace has its own"):
        points(Axis.RATE, [2.0], TRACE, SIMULATED)
    with pytest.raises(BenchError, match="--sweep ls-share: clients that never pause have none"):
        points(Axis.LS_SHARE, [0.5], MixedLoad(), SIMULATED)
    with pytest.raises(BenchError, match="--set-up: got 'lifo', allowed are fcfs"):
        choose_set_ups(["lifo"])
    with pytest.raises(BenchError, match="--set: got 'ls_tpot_s', allowed is NAME=NUMBER"):
        apply_settings(SIMULATED, ["ls_tpot_s"])


@pytest.mark.parametrize(("axis", "field"), [(Axis.QUANTUM, "preemption_quantum_s"), (Axis.LS_TPOT, "ls_tpot_s")])
def test_a_setting_may_be_varied_as_far_as_the_scheduler_allows_it(axis: Axis, field: str) -> None:
    (setting,) = [one for one in settings_of(Limits) if one.field == field]
    assert axis.bounds == (setting.setting.low, setting.setting.high)
    for end in points(axis, axis.bounds, Mix(), choose_set_ups(["qllm-expert"])):
        job = parse_job(job_of(end.set_ups[-1], "zero", NOBODY))
        assert setting.given(getattr(job.limits, field)) == end.value


def test_latency_sensitive_work_alone_is_the_same_end_of_every_promise() -> None:
    swept = points(Axis.LS_TPOT, Axis.LS_TPOT.values, MixedLoad(), SIMULATED)
    alone = [set_up for point in swept for set_up in point.set_ups if set_up.label == ALONE]
    assert {set_up.settings["ls_tpot_s"] for set_up in alone} == {0.0}


def test_the_mixed_load_can_be_varied_in_its_rate_and_its_prompts() -> None:
    (rate,) = points(Axis.RATE, [1.5], MixedLoad(), SIMULATED)
    (prompt,) = points(Axis.BE_PROMPT, [512.0], MixedLoad(), SIMULATED)
    assert rate.traffic == MixedLoad(ls_rate_per_s=1.5)
    assert prompt.traffic == MixedLoad(be_prompt_tokens=512)
