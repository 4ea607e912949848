"""How long a further best-effort request would wait is about how long one does wait."""

import math

import pytest

from scheduler_svc.core.policies import Limits
from tests.support.core.simulation import BE, Simulation


def waits_s(simulation: Simulation) -> tuple[float, float]:
    """Returns what a newcomer's wait is predicted to be, and what it is."""
    predicted_s = simulation.scheduler.wait_s(BE)
    newcomer = simulation.submit(BE, 20, 1)
    simulation.run()
    assert newcomer.first_run_s is not None
    return predicted_s, newcomer.first_run_s - newcomer.arrival_s


def test_who_comes_first_does_not_wait() -> None:
    assert Simulation().scheduler.wait_s(BE) == 0.0


@pytest.mark.parametrize("num_prompts", [4, 40])
def test_prompts_that_wait_are_waited_for(num_prompts: int) -> None:
    simulation = Simulation()
    for _ in range(num_prompts):
        simulation.submit(BE, 500, 50)
    predicted_s, waited_s = waits_s(simulation)
    assert 0.4 * waited_s < predicted_s < 2.5 * waited_s


def test_decodes_are_waited_for_where_they_have_all_places() -> None:
    simulation = Simulation(limits=Limits(max_num_seqs=4, control_lead_s=0.0))
    for _ in range(12):
        simulation.submit(BE, 20, 200)
    simulation.run(until_s=1.0)
    predicted_s, waited_s = waits_s(simulation)
    assert 0.3 * waited_s < predicted_s < 3 * waited_s


def test_decodes_that_leave_places_do_not_keep_a_newcomer_waiting() -> None:
    simulation = Simulation()
    for _ in range(12):
        simulation.submit(BE, 20, 500)
    simulation.run(until_s=1.0)
    predicted_s, waited_s = waits_s(simulation)
    assert predicted_s == 0.0
    assert waited_s < 0.2


def test_nothing_is_known_to_be_soon_before_costs_are_known() -> None:
    simulation = Simulation(calibrated=False)
    assert simulation.scheduler.wait_s(BE) == 0.0
    simulation.submit(BE, 20, 4)
    assert simulation.scheduler.wait_s(BE) == math.inf
