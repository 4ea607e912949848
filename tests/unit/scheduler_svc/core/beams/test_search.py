import math
from collections.abc import Callable
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.core.beams.params import BeamParams, EarlyStopping
from scheduler_svc.core.beams.search import Beam, BeamSearch, Candidate, num_candidates
from tests.support.core.beam_reference import Scored, Text, reference_search

VOCABULARY = 6
PENALTIES = st.sampled_from((-2.0, -0.5, 0.0, 0.7, 1.0, 3.0))
Scores = Callable[[Text], list[float]]


def model(seed: int, vocabulary: int = VOCABULARY) -> Scores:
    """A language model: log-probabilities that depend on all tokens before, and are no round numbers."""

    def scores_behind(text: Text) -> list[float]:
        rng = Random(f"{seed} {text}")
        weights = [rng.uniform(0.01, 1) ** 3 for _ in range(vocabulary)]
        return [math.log(weight / sum(weights)) for weight in weights]

    return scores_behind


def best(scores: list[float], count: int) -> list[Candidate]:
    """What a worker tells of a text."""
    ranked = sorted(range(len(scores)), key=lambda token: -scores[token])[:count]
    return [Candidate(token, scores[token] / 2, scores[token]) for token in ranked if scores[token] > -math.inf]


def run(params: BeamParams, stop: frozenset[int], max_tokens: int, scores_behind: Scores) -> list[Scored]:
    """Runs a search to its end, and checks each round."""
    search, texts = BeamSearch(params, stop, max_tokens), [()]
    for length in range(1, max_tokens + 1):
        rows = [best(scores_behind(text), num_candidates(params, stop)) for text in texts]
        children = search.advance(rows)
        assert len(children) <= params.width
        assert len(search.finished) <= params.num_wanted
        assert [one.score for one in search.finished] == sorted((one.score for one in search.finished), reverse=True)
        assert search.is_over == (not children)
        if search.is_over:
            break
        texts = [(*texts[child.parent], child.beam.token_id) for child in children]
        assert [child.beam.tokens()[0] for child in children] == texts
        assert all(len(text) == length and not stop.intersection(text) for text in texts)
    assert search.is_over
    found = [(one.beam.tokens()[0], one.score, one.is_cut) for one in search.finished]
    assert all(
        is_cut == (text[-1] not in stop) and (not is_cut or len(text) == max_tokens) for text, _, is_cut in found
    )
    return [Scored(text, score) for text, score, _ in found]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 5),
    max_tokens=st.integers(1, 7),
    stop=st.frozensets(st.integers(0, VOCABULARY - 1), max_size=3),
    patience=st.sampled_from((0.3, 0.5, 1.0, 1.5, 2.0)),
    length_penalty=PENALTIES,
    early_stopping=st.sampled_from(EarlyStopping),
)
def test_a_search_over_the_best_candidates_is_one_over_whole_vocabularies(
    seed: int,
    width: int,
    max_tokens: int,
    stop: frozenset[int],
    patience: float,
    length_penalty: float,
    early_stopping: EarlyStopping,
) -> None:
    scores_behind = model(seed)
    params = BeamParams(width, 1, length_penalty, early_stopping, patience)
    expected = reference_search(
        scores_behind,
        width,
        max_tokens,
        stop,
        patience=patience,
        length_penalty=length_penalty,
        early_stopping=early_stopping.value,
    )
    found = run(params, stop, max_tokens, scores_behind)
    assert [text.tokens for text in found] == [text.tokens for text in expected]
    assert [text.score for text in found] == pytest.approx([text.score for text in expected])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), length_penalty=PENALTIES)
def test_a_search_that_has_room_for_all_texts_finds_the_best_of_all(seed: int, length_penalty: float) -> None:
    scores_behind, longest, stop = model(seed, 3), 3, 0
    params = BeamParams(16, 1, length_penalty, EarlyStopping.NEVER, 10.0)
    found = run(params, frozenset({stop}), longest, scores_behind)
    every = {text[: text.index(stop) + 1] if stop in text else text for text in product(range(3), repeat=longest)}
    scored = {
        text: sum(scores_behind(text[:place])[token] for place, token in enumerate(text)) / len(text) ** length_penalty
        for text in every
    }
    ranked = sorted(scored, key=lambda text: -scored[text])
    assert [text.tokens for text in found] == ranked
    assert [text.score for text in found] == pytest.approx([scored[text] for text in ranked])


def test_more_patience_finds_more_and_none_that_is_worse() -> None:
    scores_behind, stop = model(5), frozenset({1, 2})
    impatient, patient = (
        run(BeamParams(3, 1, 1.0, EarlyStopping.YES, patience), stop, 8, scores_behind) for patience in (0.5, 3.0)
    )
    assert (len(impatient), len(patient)) == (2, 9)  # 1.5 is rounded up
    assert patient[0].score >= impatient[0].score


def test_of_candidates_that_are_equal_the_first_of_the_first_beam_goes_on() -> None:
    search = BeamSearch(BeamParams(2), frozenset(), 5)
    same = [Candidate(token, -1.0, -1.0) for token in (3, 1, 2)]
    assert [(child.parent, child.beam.token_id) for child in search.advance([same])] == [(0, 3), (0, 1)]
    assert [(child.parent, child.beam.token_id) for child in search.advance([same, same])] == [(0, 3), (0, 1)]


def test_what_ends_below_the_best_of_the_width_is_no_finished_text() -> None:
    search = BeamSearch(BeamParams(1), frozenset({9}), 5)
    search.advance([[Candidate(4, -0.1, -0.1), Candidate(9, -0.2, -0.2)]])
    assert not search.finished


def test_fewer_beams_go_on_where_there_are_fewer_candidates_and_more_later() -> None:
    search = BeamSearch(BeamParams(4), frozenset(), 3)
    two = [Candidate(1, -1.0, -1.0), Candidate(2, -2.0, -2.0)]
    assert len(search.advance([two])) == 2
    assert len(search.advance([two, two])) == 4


def test_a_text_keeps_the_models_log_probabilities_and_is_ranked_by_the_rules() -> None:
    search = BeamSearch(BeamParams(1), frozenset(), 2)
    search.advance([[Candidate(1, -0.5, -3.0)]])
    search.advance([[Candidate(2, -0.25, -1.0)]])
    (found,) = search.finished
    assert found.beam.tokens() == ((1, 2), (-0.5, -0.25))
    assert found.score == pytest.approx(-4.0 / 2)


def test_a_text_of_a_hundred_thousand_tokens_is_put_together_and_given_up() -> None:
    search = BeamSearch(BeamParams(1), frozenset(), 100_000)
    while not search.is_over:
        search.advance([[Candidate(1, -0.5, -0.5)]])
    assert len(search.finished[0].beam.tokens()[0]) == 100_000
    del search


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 4),
    max_tokens=st.integers(1, 6),
    stop=st.frozensets(st.integers(0, VOCABULARY - 1), max_size=2),
    early_stopping=st.sampled_from(EarlyStopping),
)
def test_texts_that_rules_leave_nothing_come_to_nothing_and_the_others_go_on(
    seed: int, width: int, max_tokens: int, stop: frozenset[int], early_stopping: EarlyStopping
) -> None:
    likely = model(seed)

    def scores_behind(text: Text) -> list[float]:
        rng = Random(f"rules {seed} {text}")
        if rng.random() < 0.4:
            return [-math.inf] * VOCABULARY
        return [score if rng.random() < 0.7 else -math.inf for score in likely(text)]

    params = BeamParams(width, 1, 1.0, early_stopping)
    found = run(params, stop, max_tokens, scores_behind)
    expected = reference_search(scores_behind, width, max_tokens, stop, early_stopping=early_stopping.value)
    assert [one.tokens for one in found] == [one.tokens for one in expected]


def test_a_text_is_made_for_what_goes_on_or_ends_and_not_for_each_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    width, stop, num_made = 16, frozenset(range(1000, 1064)), 0

    def counted(*values: object) -> Beam:
        nonlocal num_made
        num_made += 1
        return Beam(*values)  # type: ignore[arg-type]

    monkeypatch.setattr("scheduler_svc.core.beams.search.Beam", counted)
    params = BeamParams(width)
    search = BeamSearch(params, stop, 100)
    row = [Candidate(token, -0.1 * token, -0.1 * token) for token in range(num_candidates(params, stop))]
    search.advance([row])
    assert len(search.advance([row] * width)) == width
    assert num_made == 2 * width
