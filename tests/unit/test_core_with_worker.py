"""The real core drives the real model, in virtual time: whatever their history, tokens are those of generate.

Every other prompt is continued with a repetition penalty, which looks back at all tokens before. Of the others it is
told how probable their own tokens are.
"""

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams
from tests.support.core.model_worker import ModelWorker, model_of
from tests.support.core.simulation import BE, LS, Simulation
from tests.support.models.families import generated, random_model
from tests.support.worker.worker_driver import loaded, random_prompts

PROMPTS = random_prompts((9, 14, 40, 3, 11, 21))
NUM_TOKENS = 6
FAMILY = "mixtral"
PENALTY = 1.5
SAMPLINGS = (SamplingParams(0.0, num_prompt_logprobs=1), SamplingParams(0.0, repetition_penalty=PENALTY))
Arrival = tuple[float, RequestClass, int, int | None, float | None]  # when, class, prompt, stops after, aborted after


@pytest.fixture(autouse=True)
def _engine_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


def simulation(
    policy: str, preempt_at: PreemptAt, num_blocks: int, num_host_blocks: int, tpot_s: float, lead_s: float
) -> Simulation:
    model = model_of(loaded(FAMILY), num_blocks, num_host_blocks)
    limits = Limits(
        be_chunk_tokens=16, ls_chunk_tokens=24, ls_tpot_s=tpot_s, preemption_quantum_s=0.001, control_lead_s=lead_s
    )
    sim = Simulation(policy, model=model, limits=limits, preempt_at=preempt_at)
    sim.worker = ModelWorker(model, sim.worker.costs, loaded(FAMILY))
    return sim


def play(sim: Simulation, arrivals: list[Arrival]) -> None:
    """Plays one history and checks tokens and blocks; an aborted sequence has a beginning of its tokens."""
    plain = generated(FAMILY, PROMPTS, NUM_TOKENS)
    penalized = generated(FAMILY, PROMPTS, NUM_TOKENS, repetition_penalty=PENALTY)
    expected = [(plain, penalized)[prompt % 2][prompt] for prompt in range(len(PROMPTS))]
    which: dict[int, int] = {}
    aborted: set[int] = set()

    def arrive(request_class: RequestClass, prompt: int, stop_after: int | None, abort_after_s: float | None) -> None:
        stop_token_ids = () if stop_after is None else (expected[prompt][stop_after],)
        sequence = sim.submit(
            request_class, PROMPTS[prompt], NUM_TOKENS, stop_token_ids, sampling=SAMPLINGS[prompt % 2]
        )
        which[sequence.seq_id] = prompt
        if abort_after_s is not None:
            sim.at(
                sim.now_s + abort_after_s,
                lambda: aborted.add(sequence.seq_id) or sim.scheduler.abort(sequence.seq_id, sim.now_s),
            )

    for time_s, *rest in arrivals:
        sim.at(time_s, lambda rest=rest: arrive(*rest))
    sim.run()
    for seq_id, prompt in which.items():
        tokens, stops = tuple(sim.tokens(seq_id)), sim.sequences[seq_id].stop.stop_token_ids
        whole = expected[prompt]
        if stops:
            whole = whole[: whole.index(stops[0]) + 1]
        assert tokens == (whole[: len(tokens)] if seq_id in aborted else whole)
        check_scores(sim, seq_id, prompt, is_whole=seq_id not in aborted)
    sim.check_integrity()
    assert sim.scheduler.memory.pool.num_free == sim.model.num_blocks
    assert isinstance(sim.worker, ModelWorker)
    sim.worker.runner.cache.check_integrity()
    assert not sim.worker.tables


@cache
def logprobs(prompt: int) -> torch.Tensor:
    """What transformers says of each token behind each token of a prompt (T, V)."""
    return random_model(FAMILY)(torch.tensor([PROMPTS[prompt]])).logits[0].log_softmax(-1)


def check_scores(sim: Simulation, seq_id: int, prompt: int, *, is_whole: bool) -> None:
    """Checks that each token of a prompt that is to be told of was, once and as by transformers."""
    place = 1
    for part in sim.scores(seq_id):
        assert part.first_position == place
        for index, token_id in enumerate(part.token_ids):
            row = logprobs(prompt)[place - 1]
            assert token_id == PROMPTS[prompt][place]
            assert part.logprobs[index] == pytest.approx(float(row[token_id]), abs=1e-4)
            assert part.alternatives(index)[0][1] == pytest.approx(float(row.max()), abs=1e-4)
            place += 1
    if is_whole:
        assert place == (len(PROMPTS[prompt]) if prompt % 2 == 0 else 1)


ARRIVAL = st.tuples(
    st.floats(0, 0.15),
    st.sampled_from((LS, BE)),
    st.integers(0, len(PROMPTS) - 1),
    st.none() | st.integers(0, NUM_TOKENS - 1),
    st.none() | st.floats(0, 0.3),
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    arrivals=st.lists(ARRIVAL, min_size=2, max_size=8),
    policy=st.sampled_from(sorted(POLICIES)),
    preempt_at=st.sampled_from(PreemptAt),
    num_blocks=st.sampled_from((16, 24, 200)),
    num_host_blocks=st.sampled_from((0, 8, 200)),
    tpot_s=st.sampled_from((0.0, 0.005, 0.05)),
    lead_s=st.sampled_from((0.0, 0.001, 0.02)),
)
def test_every_history_of_core_and_model_gives_the_tokens_of_generate(
    arrivals: list[Arrival],
    policy: str,
    preempt_at: PreemptAt,
    num_blocks: int,
    num_host_blocks: int,
    tpot_s: float,
    lead_s: float,
) -> None:
    play(simulation(policy, preempt_at, num_blocks, num_host_blocks, tpot_s, lead_s), arrivals)


@pytest.mark.parametrize("tpot_s", [0.0, 0.05], ids=["alone", "riding"])
def test_saturated_best_effort_work_preempted_inside_layers_gives_the_tokens_of_generate(tpot_s: float) -> None:
    sim = simulation("qllm", PreemptAt.EXPERT, 200, 200, tpot_s, 0.001)
    arrivals: list[Arrival] = [(0.0, BE, i % 6, None, None) for i in range(12)]
    arrivals += [(0.004 + 0.0271 * i, LS, i % 6, None, None) for i in range(20)]
    play(sim, arrivals)
    counters = sim.scheduler.counters
    assert counters.num_preemptions_at_expert >= 5
    assert (counters.num_riders > 0) == (tpot_s > 0)
