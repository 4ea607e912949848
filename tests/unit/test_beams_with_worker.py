"""Beam search by the real core and the real model, in virtual time: whatever their history, transformers' result."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler_svc.core.beams.params import BeamParams, EarlyStopping
from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.state.commands import ForkSequence, OffloadSequence
from scheduler_svc.core.state.results import Hypothesis
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, Tier
from tests.support.core.beam_reference import Scored
from tests.support.core.model_worker import ModelWorker, model_of
from tests.support.core.simulation import BE, LS, Simulation
from tests.support.models.beams import likely_tokens, searched, searched_plainly
from tests.support.models.families import generated
from tests.support.worker.worker_driver import loaded, random_prompts

FAMILIES = ("mixtral", "gpt_oss", "deepseek_v3", "qwen3_next")
FAMILY = "mixtral"
PROMPTS = random_prompts((9, 14, 21, 3, 11))
NUM_TOKENS = 8
PENALTY = 0.5  # repeats become likelier, so that it shows
WIDE = BeamParams(4, 4)
SEARCHES = (
    BeamParams(4, 2),
    BeamParams(3, 3, -0.5, EarlyStopping.YES),
    BeamParams(2, 1, 2.0, EarlyStopping.NEVER),
    BeamParams(5, 5, 0.0),
)
BLOCKS_OF_A_BEAM = 8  # 21 tokens of prompt and 8 of the text, in blocks of four


@pytest.fixture(autouse=True)
def _engine_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


def simulation(
    family: str = FAMILY, num_blocks: int = 400, num_host_blocks: int = 400, policy: str = "qllm", **more: Any
) -> Simulation:
    model = model_of(loaded(family), num_blocks, num_host_blocks)
    limits = Limits(be_chunk_tokens=16, ls_chunk_tokens=24, preemption_quantum_s=0.001, control_lead_s=0.001)
    sim = Simulation(policy, model=model, limits=limits, **more)
    sim.worker = ModelWorker(model, sim.worker.costs, loaded(family))
    return sim


def assert_same(found: tuple[Hypothesis, ...], expected: list[Scored]) -> None:
    assert [one.token_ids for one in found] == [one.tokens for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-4)
    assert all(len(one.logprobs) == len(one.token_ids) for one in found)


def check_nothing_left(sim: Simulation) -> None:
    sim.check_integrity()
    assert not sim.scheduler.sequences
    assert sim.scheduler.memory.pool.num_free == sim.model.num_blocks
    assert sim.scheduler.memory.num_free_by_tier[Tier.HOST] == sim.model.num_host_blocks
    assert isinstance(sim.worker, ModelWorker)
    sim.worker.runner.cache.check_integrity()
    assert not sim.worker.tables
    assert not sim.worker.runner._sequences


def search_alone(
    family: str, prompt: tuple[int, ...], params: BeamParams, stop: tuple[int, ...], penalty: float = 1.0
) -> tuple[Hypothesis, ...]:
    sim = simulation(family)
    sampling = SamplingParams(0.0, repetition_penalty=penalty)
    root = sim.submit(BE, prompt, NUM_TOKENS, stop, sampling=sampling, beams=params)
    sim.run()
    check_nothing_left(sim)
    return sim.hypotheses(root.seq_id)


@pytest.mark.parametrize("early_stopping", EarlyStopping)
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_search_finds_what_transformers_finds(
    family: str, length_penalty: float, early_stopping: EarlyStopping
) -> None:
    params = BeamParams(4, 4, length_penalty, early_stopping)
    stop = likely_tokens(family, PROMPTS[0], NUM_TOKENS)
    found = search_alone(family, PROMPTS[0], params, stop)
    assert_same(found, searched(family, PROMPTS[0], params, NUM_TOKENS, stop))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_search_with_a_repetition_penalty_finds_what_transformers_finds(family: str) -> None:
    params = BeamParams(4, 4)
    stop = likely_tokens(family, PROMPTS[1], NUM_TOKENS)
    found = search_alone(family, PROMPTS[1], params, stop, PENALTY)
    expected = searched(family, PROMPTS[1], params, NUM_TOKENS, stop, PENALTY)
    assert expected != searched(family, PROMPTS[1], params, NUM_TOKENS, stop)
    assert_same(found, expected)


BOTH_DEAD = ((5, 5), (5, 6), (6, 5), (6, 6))


@pytest.mark.parametrize(("width", "bad_words"), [(2, ((5, 5), (5, 6))), (3, ((6, 5), (6, 6), (6, 7)))])
def test_a_beam_that_its_rules_leave_nothing_is_given_up_as_in_transformers(
    width: int, bad_words: tuple[tuple[int, ...], ...]
) -> None:
    allowed, params = (5, 6, 7)[:width], BeamParams(width, 1)
    sim = simulation()
    sampling = SamplingParams(0.0, allowed_token_ids=allowed, bad_words=bad_words)
    root = sim.submit(BE, PROMPTS[0], 4, (), sampling=sampling, beams=params)
    sim.run()
    expected = searched(FAMILY, PROMPTS[0], params, 4, (), allowed=allowed, bad_words=bad_words)
    assert_same(sim.hypotheses(root.seq_id), expected)
    check_nothing_left(sim)


def test_a_search_whose_rules_leave_no_beam_anything_ends_with_what_is_finished_or_says_so() -> None:
    for stop in ((), (5,)):
        sim = simulation()
        sampling = SamplingParams(0.0, allowed_token_ids=(5, 6), bad_words=BOTH_DEAD)
        root = sim.submit(BE, PROMPTS[0], 4, stop, sampling=sampling, beams=BeamParams(2))
        sim.run()
        if stop:
            assert [one.token_ids for one in sim.hypotheses(root.seq_id)] == [(5,)]
        else:
            (failure,) = sim.outputs[root.seq_id]
            assert failure.rules_leave_nothing  # type: ignore[union-attr]
        check_nothing_left(sim)


@pytest.mark.parametrize("prompt", [0, 1])
@pytest.mark.parametrize("early_stopping", EarlyStopping)
@pytest.mark.parametrize("patience", [0.5, 2.0])
def test_a_search_with_patience_finds_what_a_plain_reference_finds(
    patience: float, early_stopping: EarlyStopping, prompt: int
) -> None:
    params = BeamParams(4, 2, 1.0, early_stopping, patience)
    stop = likely_tokens(FAMILY, PROMPTS[prompt], NUM_TOKENS, 12)
    found = search_alone(FAMILY, PROMPTS[prompt], params, stop)
    assert_same(found, searched_plainly(FAMILY, PROMPTS[prompt], params, NUM_TOKENS, stop))


def test_a_search_with_less_patience_finds_less() -> None:
    """Else the test above would show nothing."""
    stop = likely_tokens(FAMILY, PROMPTS[0], NUM_TOKENS, 12)
    half, whole = (
        searched_plainly(FAMILY, PROMPTS[0], BeamParams(4, 2, 1.0, EarlyStopping.YES, patience), NUM_TOKENS, stop)
        for patience in (0.5, 1.0)
    )
    assert half != whole


def test_a_search_of_one_beam_is_greedy() -> None:
    (greedy,) = generated(FAMILY, PROMPTS[:1], NUM_TOKENS)
    (found,) = search_alone(FAMILY, PROMPTS[0], BeamParams(1), ())
    assert found.token_ids == greedy


class Arrival(NamedTuple):
    """A request: a search by number, or a plain one.

    Attributes:
        aborts_after_s: How long after it came it is given up; None: it is not.
    """

    time_s: float
    request_class: RequestClass
    prompt: int
    search: int | None
    is_penalized: bool
    aborts_after_s: float | None


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        st.floats(0, 0.15),
        st.sampled_from((LS, BE)),
        st.integers(0, len(PROMPTS) - 1),
        st.none() | st.integers(0, len(SEARCHES) - 1),
        st.booleans(),
        st.none() | st.floats(0, 0.3),
    ),
    min_size=2,
    max_size=6,
)


class Table:
    """Both sides, and the requests that come to them."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.asked: list[tuple[Sequence, Arrival]] = []
        self.aborted: set[int] = set()
        self._pump, self.sim._pump = self.sim._pump, self._checked_pump  # type: ignore[method-assign]

    def sit_down(self, arrival: Arrival) -> None:
        self.sim.at(arrival.time_s, lambda: self._ask(arrival))

    def _ask(self, arrival: Arrival) -> None:
        prompt, penalty = PROMPTS[arrival.prompt], PENALTY if arrival.is_penalized else 1.0
        beams = None if arrival.search is None else SEARCHES[arrival.search]
        stop = () if beams is None else likely_tokens(FAMILY, prompt, NUM_TOKENS)
        sampling = SamplingParams(0.0, repetition_penalty=penalty)
        sequence = self.sim.submit(arrival.request_class, prompt, NUM_TOKENS, stop, sampling=sampling, beams=beams)
        self.asked.append((sequence, arrival))
        if arrival.aborts_after_s is not None:
            self.sim.at(self.sim.now_s + arrival.aborts_after_s, lambda: self._abort(sequence))

    def _abort(self, sequence: Sequence) -> None:
        if self.sim.scheduler.abort(sequence.seq_id, self.sim.now_s) is not None:
            self.aborted.add(sequence.seq_id)

    def _checked_pump(self) -> None:
        self._pump()
        self.sim.check_integrity()
        self.sim.check_goes_on()

    def check_end(self) -> None:
        for sequence, arrival in self.asked:
            penalty = PENALTY if arrival.is_penalized else 1.0
            if arrival.search is None:
                (expected,) = generated(FAMILY, (PROMPTS[arrival.prompt],), NUM_TOKENS, repetition_penalty=penalty)
                tokens = tuple(self.sim.tokens(sequence.seq_id))
                assert tokens == (expected[: len(tokens)] if sequence.seq_id in self.aborted else expected)
            elif sequence.seq_id not in self.aborted:
                params, prompt = SEARCHES[arrival.search], PROMPTS[arrival.prompt]
                stop = likely_tokens(FAMILY, prompt, NUM_TOKENS)
                found = self.sim.hypotheses(sequence.seq_id)
                assert_same(found, searched(FAMILY, prompt, params, NUM_TOKENS, stop, penalty))
            else:
                assert self.sim.outputs[sequence.seq_id] == []
        check_nothing_left(self.sim)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    arrivals=ARRIVALS,
    policy=st.sampled_from(sorted(POLICIES)),
    num_blocks=st.sampled_from((BLOCKS_OF_A_BEAM, 12, 24, 200)),
    num_host_blocks=st.sampled_from((0, 8, 200)),
)
def test_whoever_runs_beside_it_and_however_little_memory_there_is_a_search_finds_the_same(
    arrivals: list[Arrival], policy: str, num_blocks: int, num_host_blocks: int
) -> None:
    table = Table(simulation(FAMILY, num_blocks, num_host_blocks, policy))
    for arrival in arrivals:
        table.sit_down(arrival)
    table.sim.run()
    table.check_end()


def test_latency_sensitive_arrivals_stop_a_search_inside_layers_and_change_nothing() -> None:
    table = Table(simulation())
    table.sit_down(Arrival(0.0, BE, 2, 0, False, None))
    table.sit_down(Arrival(0.0, BE, 1, 1, True, None))
    for number in range(8):
        table.sit_down(Arrival(0.003 + 0.0131 * number, LS, number % 5, None, False, None))
    table.sim.run()
    assert table.sim.scheduler.counters.num_preemptions_at_expert >= 3
    table.check_end()


def test_beams_share_their_blocks_and_decode_in_one_batch() -> None:
    sim = simulation()
    root = sim.submit(BE, PROMPTS[2], NUM_TOKENS, beams=WIDE)
    most_blocks, batch_sizes = 0, list[int]()

    def look() -> None:
        nonlocal most_blocks
        most_blocks = max(most_blocks, sim.scheduler.memory.pool.num_held)
        batch_sizes.extend(len(batch.members) for batch in sim.scheduler.batches)

    for number in range(200):
        sim.at(0.002 * number, look)
    sim.run()
    assert len(sim.hypotheses(root.seq_id)) == 4
    assert max(batch_sizes) == 4
    assert most_blocks < 2 * BLOCKS_OF_A_BEAM  # four texts by themselves would hold twice that
    assert any(isinstance(command, ForkSequence) for command in sim.commands)
    assert sim.scheduler.memory.counters.num_recomputed_tokens == 0
    check_nothing_left(sim)


@pytest.mark.parametrize("num_host_blocks", [0, 400])
def test_beams_that_do_not_fit_together_run_one_after_another(num_host_blocks: int) -> None:
    sim = simulation(FAMILY, BLOCKS_OF_A_BEAM, num_host_blocks)
    root = sim.submit(BE, PROMPTS[2], NUM_TOKENS, beams=WIDE)
    sim.run()
    assert_same(sim.hypotheses(root.seq_id), searched(FAMILY, PROMPTS[2], WIDE, NUM_TOKENS, ()))
    check_nothing_left(sim)


def test_a_search_is_moved_off_the_device_and_comes_back() -> None:
    sim = simulation(FAMILY, 2 * BLOCKS_OF_A_BEAM, 400)
    root = sim.submit(BE, PROMPTS[2], NUM_TOKENS, beams=WIDE)
    for number in range(6):
        sim.at(
            0.05 + 0.04 * number,
            lambda number=number: sim.submit(LS, PROMPTS[2], NUM_TOKENS, salt=str(number).encode()),
        )
    sim.run()
    assert any(isinstance(command, OffloadSequence) for command in sim.commands)
    assert_same(sim.hypotheses(root.seq_id), searched(FAMILY, PROMPTS[2], WIDE, NUM_TOKENS, ()))
    check_nothing_left(sim)


@pytest.mark.parametrize("seconds", [0.001, 0.015, 0.03, 0.05, 0.07])
def test_a_search_goes_on_with_the_next_worker(seconds: float) -> None:
    """Whatever each beam has reported stays; what a beam had computed is computed again."""
    first = simulation()
    root = first.submit(
        BE, PROMPTS[2], NUM_TOKENS, beams=WIDE, sampling=SamplingParams(0.0, repetition_penalty=PENALTY)
    )
    first.run(until_s=seconds)
    assert not first.outputs[root.seq_id]
    second = simulation()
    second._ids = first._ids
    for sequence in root.kin.own(root):
        sequence.lose_worker()
    second.outputs[root.seq_id] = []
    second.token_times_s[root.seq_id] = []
    second.scheduler.add(root)
    second.run()
    expected = searched(FAMILY, PROMPTS[2], WIDE, NUM_TOKENS, (), PENALTY)
    assert_same(second.hypotheses(root.seq_id), expected)
    check_nothing_left(second)
