"""What a new request is foretold comes about, as nearly as decides whether to take it in."""

import pytest

from scheduler_svc.core.beams.params import BeamParams
from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, StopConditions
from tests.support.core.simulation import BE, LS, Simulation, small_model


def newcomer(
    sim: Simulation, num_prompt: int = 100, *, request_class: RequestClass = LS, min_tokens: int = 0
) -> Sequence:
    """A sequence that is not queued yet, with a deadline, so that all of its forecast is made."""
    stop = StopConditions(max_tokens=50, min_tokens=min_tokens)
    prompt = tuple(range(7, 7 + num_prompt))
    return Sequence(SeqId(999), request_class, prompt, SamplingParams(0.0), stop, sim.now_s, deadline_s=1e9)


def simulation(num_blocks: int = 4096, **limits: float) -> Simulation:
    return Simulation(model=small_model(num_blocks=num_blocks), limits=Limits(control_lead_s=0.0, **limits))  # type: ignore[arg-type]


def test_nothing_is_foretold_before_costs_are_known() -> None:
    sim = Simulation(calibrated=False)
    for _ in range(100):
        sim.submit(LS, 500, 50)
    assert sim.scheduler.forecast(newcomer(sim)) == (0.0, 0.0)


def test_an_idle_service_begins_at_once_and_so_does_one_with_best_effort_work_alone() -> None:
    sim = simulation()
    assert sim.scheduler.forecast(newcomer(sim)).begins_s == 0.0
    for _ in range(100):
        sim.submit(BE, 500, 50)
    assert sim.scheduler.forecast(newcomer(sim)).begins_s == 0.0


def test_best_effort_requests_are_foretold_no_time_to_begin() -> None:
    sim = simulation()
    for _ in range(100):
        sim.submit(LS, 500, 50)
    assert sim.scheduler.forecast(newcomer(sim, request_class=BE)).begins_s == 0.0


@pytest.mark.parametrize(
    ("num_waiting", "num_prompt", "limits"),
    [
        (40, 500, {}),  # prompts are what it waits for
        (40, 50, {"max_num_seqs": 4}),  # places are
        (60, 200, {"max_num_seqs": 8}),  # both
        (40, 150, {"num_blocks": 64}),  # blocks are: room for six
    ],
)
def test_a_wait_comes_about_as_foretold(num_waiting: int, num_prompt: int, limits: dict[str, int]) -> None:
    sim = simulation(**limits)
    sim.submit(LS, 40, 30)
    sim.run()  # so that it is known how long answers are
    for _ in range(num_waiting):
        sim.submit(LS, num_prompt, 30)
    foretold_s = sim.scheduler.forecast(newcomer(sim)).begins_s
    last = sim.submit(LS, num_prompt, 30)
    sim.run()
    assert last.first_run_s is not None
    assert foretold_s == pytest.approx(last.first_run_s - last.arrival_s, rel=0.5)


def test_the_soonest_first_token_is_that_of_an_idle_worker() -> None:
    sim = simulation()
    foretold_s = sim.scheduler.forecast(newcomer(sim, 400)).soonest_s
    alone = sim.submit(LS, 400, 5)
    sim.run()
    assert alone.first_token_s is not None
    assert foretold_s == pytest.approx(alone.first_token_s - alone.arrival_s, rel=0.3)


def test_what_is_cached_of_a_prompt_brings_its_soonest_token_nearer() -> None:
    sim = simulation()
    unknown_s = sim.scheduler.forecast(newcomer(sim, 400)).soonest_s
    sim.submit(LS, newcomer(sim, 400).prompt_token_ids, 5)
    sim.run()
    assert sim.scheduler.forecast(newcomer(sim, 400)).soonest_s < unknown_s / 3


def test_tokens_that_have_to_come_put_the_soonest_end_off() -> None:
    sim = simulation()
    one, many = (sim.scheduler.forecast(newcomer(sim, min_tokens=number)).soonest_s for number in (1, 41))
    assert many > 5 * one


def test_answers_of_a_search_are_foretold_as_long_as_they_are() -> None:
    def wait_after(beams: BeamParams | None) -> float:
        sim = simulation(max_num_seqs=16)
        for _ in range(4):
            sim.submit(LS, 20, 20, beams=beams)
            sim.run()
        for _ in range(40):
            sim.submit(LS, 20, 20)
        return sim.scheduler.wait_s(LS)

    assert wait_after(BeamParams(16)) == pytest.approx(wait_after(None), rel=0.05)


def test_choices_that_wait_for_their_prompt_count_as_those_that_generate() -> None:
    waits = []
    for shares in (False, True):
        sim = simulation(max_num_seqs=4)
        sim.submit(LS, 40, 30)
        sim.run()
        if shares:
            sim.submit_choices(LS, 40, [SamplingParams(0.0)] * 32, 30)
        else:
            for _ in range(32):
                sim.submit(LS, 40, 30, alike=1)
        waits.append(sim.scheduler.wait_s(LS))
    assert 0.5 * waits[0] < waits[1] <= waits[0]
