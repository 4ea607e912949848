"""A forward pass stops where it should, stands by itself, and can be ended anywhere."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from gpu_worker.attention import stage as attention_stage
from gpu_worker.cache.ragged import RaggedCache
from gpu_worker.cache.span import Span
from gpu_worker.cache.unified import UnifiedDynamicCache
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import PassFailed
from gpu_worker.experts.queues import run_jointly
from gpu_worker.passes.forward import ForwardPass
from tests.support.models.families import random_model
from tests.support.worker.worker_driver import loaded

TOKENS = (5, 6, 7, 8, 9, 10)


def _pass(family: str = "mixtral", logit_rows: tuple[int, ...] = tuple(range(len(TOKENS)))) -> ForwardPass:
    model = loaded(family)
    store = UnifiedDynamicCache(BlockLedger(4, 4, 0), torch.device("cpu"))
    table = store.new_table(1)
    store.extend(table, [0, 1])
    cache = RaggedCache(store, [Span(table, 0, len(TOKENS), 0)], model.latent_layers)
    tokens, positions, rows = torch.tensor(TOKENS), torch.arange(len(TOKENS)), torch.tensor(logit_rows)
    return ForwardPass(model.model, model.facts.experts_by_layer, cache, tokens, positions, rows)


def _run_experts(forward_pass: ForwardPass, family: str = "mixtral") -> None:
    weights = loaded(family).expert_weights[forward_pass.cursor.layer]
    assert weights is not None
    while not forward_pass.expert_queues.is_done:
        run_jointly(weights, [forward_pass.expert_queues], forward_pass.expert_queues.next_expert)


def test_cursors_are_ordered_as_they_are_reached() -> None:
    reached = [Cursor(0), Cursor(0, Stage.EXPERTS, 0), Cursor(0, Stage.EXPERTS, 7), Cursor(1), Cursor(1, Stage.EXPERTS)]
    assert all(earlier < later for earlier, later in pairwise(reached))


def test_a_pass_stops_before_the_experts_of_each_layer_and_before_the_next_layer() -> None:
    forward_pass = _pass()
    stood = []
    while forward_pass.logits is None:
        stood.append(forward_pass.cursor[:2])
        if forward_pass.cursor.stage is Stage.ATTENTION:
            forward_pass.run_attention()
        else:
            _run_experts(forward_pass)
            forward_pass.deliver()
    assert stood == [(layer, stage) for layer in range(3) for stage in (Stage.ATTENTION, Stage.EXPERTS)]
    assert forward_pass.cursor == Cursor(3)
    plain = random_model("mixtral")(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(forward_pass.logits, plain, rtol=1e-4, atol=1e-4)


def test_the_last_layers_experts_run_only_for_rows_that_the_head_reads() -> None:
    forward_pass = _pass(logit_rows=(5,))
    num_run = []
    while forward_pass.logits is None:
        if forward_pass.cursor.stage is Stage.ATTENTION:
            forward_pass.run_attention()
            queues = forward_pass.expert_queues
            num_run.append(sum(map(queues.num_tokens, range(loaded("mixtral").facts.experts_by_layer[0]))))
        else:
            _run_experts(forward_pass)
            forward_pass.deliver()
    assert num_run == [2 * len(TOKENS), 2 * len(TOKENS), 2]
    plain = random_model("mixtral")(torch.tensor([TOKENS])).logits[0, 5:]
    torch.testing.assert_close(forward_pass.logits, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["mixtral", "glm4_moe", "gpt_oss", "deepseek_v3"])
def test_the_last_layers_attention_runs_only_for_rows_that_the_head_reads(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward_pass = _pass(family, logit_rows=(5,))  # first: loading a model runs it
    num_queries: Counter[int] = Counter()
    attend = attention_stage._attend

    def note(cache: RaggedCache, part: Span, start: int, q: Tensor, *others: Any) -> Tensor:
        num_queries[forward_pass.cursor.layer] += q.shape[1]
        return attend(cache, part, start, q, *others)

    monkeypatch.setattr(attention_stage, "_attend", note)
    while forward_pass.logits is None:
        if forward_pass.cursor.stage is Stage.ATTENTION:
            forward_pass.run_attention()
        else:
            _run_experts(forward_pass, family)
            forward_pass.deliver()
    *before, last = (num_queries[layer] for layer in sorted(num_queries))
    assert set(before) == {len(TOKENS)}
    assert last == 1
    plain = random_model(family)(torch.tensor([TOKENS])).logits[0, 5:]
    torch.testing.assert_close(forward_pass.logits, plain, rtol=1e-4, atol=1e-4)


def test_a_layer_without_a_mixture_is_one_stage() -> None:
    forward_pass = _pass("glm4_moe")
    forward_pass.run_attention()
    assert forward_pass.cursor == Cursor(1)


def test_output_is_not_delivered_to_a_pass_that_waits_for_none() -> None:
    with pytest.raises(PassFailed, match="waits for no experts"):
        _pass().deliver()


@pytest.mark.parametrize("num_stages", range(4))
def test_a_pass_can_be_ended_wherever_it_stands_and_holds_nothing_then(num_stages: int) -> None:
    forward_pass = _pass()
    for _ in range(num_stages):
        if forward_pass.cursor.stage is Stage.ATTENTION:
            forward_pass.run_attention()
        else:
            _run_experts(forward_pass)
            forward_pass.deliver()
    assert (forward_pass.suspended_bytes > 0) == (num_stages > 0)
    forward_pass.close()
    assert (forward_pass.cursor, forward_pass.is_closed, bool(forward_pass)) == (Cursor(3), True, False)
    forward_pass.close()


def test_the_model_itself_can_only_run_as_a_pass() -> None:
    with pytest.raises(PassFailed, match="outside of a ForwardPass"):
        loaded().model(torch.tensor([TOKENS]))
