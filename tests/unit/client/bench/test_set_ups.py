import pytest
from qllm.client.bench.set_ups import SET_UPS, SetUpName
from qllm.client.bench.simulation.sweep import SIMULATED

from scheduler_svc.core.policies import POLICIES
from scheduler_svc.core.state.cursor import PreemptAt


@pytest.mark.parametrize("name", SetUpName)
def test_each_set_up_is_one_that_the_scheduler_has_under_its_own_name(name: SetUpName) -> None:
    set_up = SET_UPS[name]
    assert set_up.label == name
    assert set_up.options[:2] == ("--policy", set_up.policy)
    only_granularity = POLICIES[set_up.policy].preempt_at
    assert PreemptAt(set_up.preempt_at) in (only_granularity, *([] if only_granularity else PreemptAt))


def test_a_service_is_told_where_to_stop_only_if_that_is_what_set_ups_of_its_policy_differ_in() -> None:
    told = {name: set_up.options[2:] for name, set_up in SET_UPS.items()}
    assert told == {
        SetUpName.FCFS: (),
        SetUpName.PRIORITY: (),
        SetUpName.PAPER: (),
        SetUpName.LAYER: ("--preempt-at", "layer"),
        SetUpName.EXPERT: ("--preempt-at", "expert"),
    }


def test_what_is_simulated_can_be_served_but_for_what_only_simulations_vary() -> None:
    assert [one for one in SIMULATED if not one.settings] == [
        SET_UPS[name] for name in ("fcfs", "paper", "priority-iteration", "qllm-layer", "qllm-expert")
    ]
