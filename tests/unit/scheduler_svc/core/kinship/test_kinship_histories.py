"""Whatever comes when, and however little memory there is: searches find what they find alone, and choices end."""

from collections.abc import Sequence as Several
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler_svc.core.beams.params import BeamParams, EarlyStopping
from scheduler_svc.core.beams.search import BeamSearch, Candidate, num_candidates
from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.state.commands import ForkSequence, StartBatch
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.results import SampledToken
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, SequenceState
from tests.support.core.simulation import BE, LS, Simulation, small_model

SEARCHES = (BeamParams(4, 2), BeamParams(3, 1, -1.0, EarlyStopping.YES), BeamParams(2, 2, patience=2.0), BeamParams(1))
STOP = (11, 40)
Arrival = tuple[float, RequestClass, int, int, int | None, int, float | None]
ARRIVAL = st.tuples(
    st.floats(0, 0.5),
    st.sampled_from((LS, BE)),
    st.integers(1, 100),  # tokens of the prompt
    st.integers(1, 12),  # of the answer
    st.none() | st.integers(0, len(SEARCHES) - 1),
    st.integers(1, 4),  # choices, unless it is a search
    st.none() | st.floats(0, 1.0),  # after which it is aborted
)


def expected(params: BeamParams, num_prompt: int, max_tokens: int) -> list[tuple[int, ...]]:
    """What a search finds of the worker whose candidates depend on the number of tokens alone."""
    search, num_beams = BeamSearch(params, frozenset(STOP), max_tokens), 1
    count = num_candidates(params, frozenset(STOP))
    while not search.is_over:
        length = num_prompt + search._num_tokens
        row = [Candidate((length + i) % 97, -0.1 * (i + 1), -0.1 * (i + 1)) for i in range(count)]
        num_beams = len(search.advance([row] * num_beams))
    return [one.beam.tokens()[0] for one in search.finished[: params.num_returned]]


class Table:
    """The core, and what is asked of it; books are checked at each event."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.searches: dict[int, BeamParams] = {}
        self.choices: list[Sequence] = []
        self.aborted: set[int] = set()
        self._pump, sim._pump = sim._pump, self._checked_pump  # type: ignore[method-assign]

    def sit_down(self, arrival: Arrival) -> None:
        time_s, *rest = arrival
        self.sim.at(time_s, lambda: self.ask(*rest))

    def ask(
        self,
        request_class: RequestClass,
        num_prompt: int,
        max_tokens: int,
        search: int | None = None,
        num_choices: int = 1,
        aborts_after_s: float | None = None,
    ) -> Sequence:
        """Asks for a search, or for choices; returns the sequence, or the first one, which may be aborted."""
        if search is not None:
            first = self.sim.submit(request_class, num_prompt, max_tokens, STOP, beams=SEARCHES[search])
            self.searches[first.seq_id] = SEARCHES[search]
        else:
            choices = self.sim.submit_choices(
                request_class, num_prompt, [SamplingParams(0.0)] * num_choices, max_tokens
            )
            self.choices += choices
            first = choices[0]
        if aborts_after_s is not None:
            self.sim.at(self.sim.now_s + aborts_after_s, lambda: self.abort(first))
        return first

    def abort(self, sequence: Sequence) -> None:
        if self.sim.scheduler.abort(sequence.seq_id, self.sim.now_s):
            self.aborted.add(sequence.seq_id)

    def _checked_pump(self) -> None:
        self._pump()
        self.sim.check_integrity()
        self.sim.check_goes_on()

    def check_end(self) -> None:
        for seq_id, params in self.searches.items():
            sequence = self.sim.sequences[seq_id]
            assert sequence.state is SequenceState.FINISHED
            if seq_id not in self.aborted:
                wanted = expected(params, len(sequence.prompt_token_ids), sequence.stop.max_tokens)
                assert [one.token_ids for one in self.sim.hypotheses(seq_id)] == wanted
        for choice in self.choices:
            tokens, whole = self.sim.tokens(choice.seq_id), self.sim.expected_tokens(choice)
            assert tokens == (whole[: len(tokens)] if choice.seq_id in self.aborted else whole)
        assert self.sim.scheduler.sequences == ()
        assert self.sim.worker.tables == {}
        memory = self.sim.scheduler.memory
        assert memory.pool.num_free == self.sim.model.num_blocks
        assert memory.num_free_host_blocks == self.sim.model.num_host_blocks


def table(num_blocks: int = 4096, num_host_blocks: int = 4096, policy: str = "qllm", **more: Any) -> Table:
    model = small_model(num_blocks=num_blocks, num_host_blocks=num_host_blocks, max_model_len=112)
    return Table(Simulation(policy, model=model, checks_rows=True, **more))


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    arrivals=st.lists(ARRIVAL, min_size=1, max_size=6),
    policy=st.sampled_from(sorted(POLICIES)),
    preempt_at=st.sampled_from(PreemptAt),
    num_blocks=st.sampled_from((7, 8, 12, 20, 4096)),
    num_host_blocks=st.sampled_from((0, 3, 4096)),
    lead_s=st.sampled_from((0.0, 0.001, 0.02)),
    max_num_seqs=st.sampled_from((1, 3, 256)),
)
def test_whatever_comes_when_searches_and_choices_end_as_they_would_alone(
    arrivals: Several[Arrival],
    policy: str,
    preempt_at: PreemptAt,
    num_blocks: int,
    num_host_blocks: int,
    lead_s: float,
    max_num_seqs: int,
) -> None:
    limits = Limits(control_lead_s=lead_s, max_num_seqs=max_num_seqs, be_chunk_tokens=32, ls_chunk_tokens=48)
    asked = table(num_blocks, num_host_blocks, policy, limits=limits, preempt_at=preempt_at)
    for arrival in arrivals:
        asked.sit_down(arrival)
    asked.sim.run()
    asked.check_end()


@pytest.mark.parametrize("num_states", [1, 2, 3])
def test_searches_and_choices_go_on_where_there_are_places_for_few_states(num_states: int) -> None:
    model = small_model(num_blocks=64, num_host_blocks=64, max_model_len=112, num_states=num_states)
    asked = Table(Simulation(model=model, checks_rows=True))
    for request_class in (LS, BE):
        asked.ask(request_class, 40, 6, search=0)
        asked.ask(request_class, 40, 6, num_choices=3)
    asked.sim.run()
    asked.check_end()


def test_a_search_of_latency_sensitive_class_forks_although_best_effort_work_fills_the_cache() -> None:
    asked = table(num_blocks=28)
    for _ in range(4):
        asked.ask(BE, 100, 12)
    asked.sim.at(0.4, lambda: asked.ask(LS, 90, 8, search=0))
    asked.sim.run()
    asked.check_end()
    assert sum(isinstance(command, ForkSequence) for command in asked.sim.commands) >= 3


def test_searches_run_one_after_another_or_together_and_never_wait_for_each_other() -> None:
    asked = table(num_blocks=7, num_host_blocks=0)  # one beam's
    for request_class in (LS, BE, BE, LS):
        asked.ask(request_class, 100, 12, search=0)
    asked.sim.run()
    asked.check_end()


def test_a_beam_is_in_one_iteration_at_a_time_and_no_iteration_with_one_has_a_sequel() -> None:
    asked = table(limits=Limits(control_lead_s=0.02))
    asked.ask(LS, 20, 10, search=0)
    asked.ask(LS, 20, 30)
    asked.sim.run()
    asked.check_end()
    starts = [command for command in asked.sim.commands if isinstance(command, StartBatch)]
    with_beams = [start for start in starts if len(start.items) > 2]
    assert len(with_beams) >= 8  # the other one goes along, and is not put off
    assert all(item.token_ids for start in with_beams for item in start.items)


def test_a_worker_that_tells_no_candidates_ends_the_search_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = table()
    asked.ask(BE, 20, 5)
    root = asked.sim.submit(BE, 20, 5, beams=SEARCHES[0])
    sample = asked.sim.worker._sample
    monkeypatch.setattr(asked.sim.worker, "_sample", lambda seq_id, num: sample(seq_id, num)._replace(candidates=None))
    asked.sim.run()
    (failure,) = asked.sim.outputs[root.seq_id]
    assert "no candidates" in failure.message  # type: ignore[union-attr]
    assert not failure.rules_leave_nothing  # type: ignore[union-attr]
    asked.check_end()


@pytest.mark.parametrize("num_rounds", [0, 2])
def test_a_search_of_which_no_beam_is_left_ends_by_its_own_rules(
    num_rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = table()
    asked.ask(BE, 20, 5)
    root = asked.sim.submit(BE, 20, 5, beams=SEARCHES[0])
    sample = asked.sim.worker._sample

    def told(seq_id: int, num_cached: int) -> SampledToken:
        token = sample(seq_id, num_cached)
        is_left = token.candidates is None or num_cached < 20 + num_rounds
        return token if is_left else token._replace(candidates=())

    monkeypatch.setattr(asked.sim.worker, "_sample", told)
    asked.sim.run()
    (failure,) = asked.sim.outputs[root.seq_id]
    assert failure.rules_leave_nothing  # type: ignore[union-attr]
    assert "its rules leave no token to any beam" in failure.message  # type: ignore[union-attr]
    asked.check_end()
