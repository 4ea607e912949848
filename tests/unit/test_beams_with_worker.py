"""Beam search by the real core and the real model, in virtual time: whatever their history, transformers' result."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from scheduler_svc.core.beams.params import BeamParams, EarlyStopping
from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.results import Hypothesis
from scheduler_svc.core.state.sequence import SamplingParams, Tier
from tests.support.core.model_worker import ModelWorker, model_of
from tests.support.core.simulation import BE, LS, Simulation
from tests.support.models.families import generated, random_model
from tests.support.worker.worker_driver import loaded, random_prompts

FAMILIES = ("mixtral", "gpt_oss", "deepseek_v3", "qwen3_next")
PROMPTS = random_prompts((9, 14, 21, 3, 11))
NUM_TOKENS = 8
STOP = (17, 300)  # never probable: these searches end at their length
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _engine_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


@cache
def likely_tokens(family: str, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens that many beams come by, so that stopping at them ends texts of several lengths."""
    with torch.inference_mode():
        ids = torch.tensor([prompt])
        found = random_model(family).generate(ids, num_beams=4, max_new_tokens=NUM_TOKENS, num_return_sequences=4)
    tokens = found[:, len(prompt) + 1 :].flatten().tolist()
    return tuple(sorted(set(tokens), key=lambda token: (-tokens.count(token), token))[:2])


@cache
def searched(family: str, prompt: tuple[int, ...], params: BeamParams, stop: tuple[int, ...], **more: Any) -> Any:
    """What transformers finds: tokens and score of each text."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        found = random_model(family).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_TOKENS,
            num_beams=params.width,
            num_return_sequences=params.num_returned,
            length_penalty=params.length_penalty,
            early_stopping=params.early_stopping.value,
            eos_token_id=list(stop) or None,
            pad_token_id=0,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
            **more,
        )
    texts = []
    for row in found.sequences[:, len(prompt) :].tolist():
        ends = [place for place, token in enumerate(row) if token in stop]
        texts.append(tuple(row[: ends[0] + 1] if ends else row[:NUM_TOKENS]))
    return list(zip(texts, found.sequences_scores.tolist(), strict=True))


def simulation(family: str, num_blocks: int = 400, num_host_blocks: int = 400, **more: Any) -> Simulation:
    model = model_of(loaded(family), num_blocks, num_host_blocks)
    limits = Limits(be_chunk_tokens=16, ls_chunk_tokens=24, preemption_quantum_s=0.001, control_lead_s=0.001)
    sim = Simulation(model=model, limits=limits, preempt_at=PreemptAt.EXPERT, **more)
    sim.worker = ModelWorker(model, sim.worker.costs, loaded(family))
    return sim


def assert_same(found: tuple[Hypothesis, ...], expected: list[tuple[tuple[int, ...], float]]) -> None:
    assert [one.token_ids for one in found] == [tokens for tokens, _ in expected]
    assert [one.score for one in found] == pytest.approx([score for _, score in expected], abs=TOLERANCE)


def check_nothing_left(sim: Simulation) -> None:
    sim.check_integrity()
    assert not sim.scheduler.sequences
    assert sim.scheduler.memory.pool.num_free == sim.model.num_blocks
    assert sim.scheduler.memory.num_free_by_tier[Tier.HOST] == sim.model.num_host_blocks
    assert isinstance(sim.worker, ModelWorker)
    sim.worker.runner.cache.check_integrity()
    assert not sim.worker.tables
    assert not sim.worker.runner._sequences


@pytest.mark.parametrize("early_stopping", EarlyStopping)
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_search_finds_what_transformers_finds(
    family: str, length_penalty: float, early_stopping: EarlyStopping
) -> None:
    params = BeamParams(4, 4, length_penalty, early_stopping)
    sim = simulation(family)
    prompt = PROMPTS[0]
    stop = likely_tokens(family, prompt)
    one = sim.submit(LS, prompt, NUM_TOKENS, stop, beams=params)
    sim.run()
    assert_same(sim.hypotheses(one.seq_id), searched(family, prompt, params, stop))
    check_nothing_left(sim)
