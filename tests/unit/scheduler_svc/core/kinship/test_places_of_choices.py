"""Choices take places as other sequences do: an iteration samples no more rows than it may have sequences."""

import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.commands import StartBatch
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams
from tests.support.core.simulation import BE, LS, Simulation, small_model

NUM_PLACES = 8


def choices_of(number: int) -> list[SamplingParams]:
    return [SamplingParams(1.0, seed=seed) for seed in range(number)]


def simulation(policy: str = "qllm", **changes: object) -> Simulation:
    limits = Limits(control_lead_s=0.0, max_num_seqs=NUM_PLACES, ls_chunk_tokens=64, be_chunk_tokens=64)
    return Simulation(policy, model=small_model(num_blocks=1024, **changes), limits=limits)


@pytest.mark.parametrize("policy", ["qllm", "fcfs"])
@pytest.mark.parametrize("request_class", [LS, BE])
@pytest.mark.parametrize("no_sharing_reason", ["", "the model keeps a state"])
def test_an_iteration_samples_no_more_rows_than_it_has_places(
    policy: str, request_class: RequestClass, no_sharing_reason: str
) -> None:
    sim = simulation(policy, no_sharing_reason=no_sharing_reason)
    prompts = [sim.submit_choices(request_class, 40 + 30 * i, choices_of(n), 3) for i, n in enumerate((5, 20, 3, 8))]
    sim.run()
    for choice in (choice for choices in prompts for choice in choices):
        assert sim.tokens(choice.seq_id) == sim.expected_tokens(choice)
    starts = [command for command in sim.commands if isinstance(command, StartBatch)]
    num_rows = [sum(1 + len(item.also_sampled_ids) for item in start.items) for start in starts]
    assert max(num_rows) == NUM_PLACES
    sim.check_integrity()
    assert not sim.scheduler.sequences


def test_rows_of_all_choices_count_in_what_an_iteration_is_foretold_to_take() -> None:
    sim = simulation()
    sim.submit_choices(BE, 16, choices_of(5), 3)
    sim.scheduler.schedule(0.0)
    [batch] = sim.scheduler.batches
    assert batch.shape.num_rows == 5


def test_where_what_is_cached_is_shared_the_choices_left_over_compute_little_again() -> None:
    sim = simulation()
    sim.submit_choices(BE, 160, choices_of(2 * NUM_PLACES), 1)
    sim.run()
    starts = [command for command in sim.commands if isinstance(command, StartBatch)]
    assert sum(item.num_tokens for start in starts for item in start.items) < 2 * 160
