"""Nothing that a device runs between two stops makes the host wait for it.

On a CPU this is shown with tensors that have no contents: whoever asks what a device would have to answer, such as how
many tokens go to an expert, fails at once.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from gpu_worker.attention import paged as paged_attention
from gpu_worker.attention.paged import Pages, Scores
from gpu_worker.cache import offloaded, placement, static_placement, unified
from gpu_worker.cache.carrier import HostCarrier
from gpu_worker.cache.placement import Placement
from gpu_worker.cache.ragged import RaggedCache
from gpu_worker.cache.span import Span
from gpu_worker.cache.static_placement import StaticPlacement
from gpu_worker.cache.unified import Layout, UnifiedDynamicCache
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.cursor import Cursor
from gpu_worker.model.loader import LoadedModel, adopt_model
from gpu_worker.model.weights import WeightOptions
from gpu_worker.passes.forward import ForwardPass
from tests.support.models.families import random_model

META = torch.device("meta")
FAMILIES = ("mixtral", "qwen3_moe", "glm4_moe", "gpt_oss", "granitemoe", "llama")


@pytest.fixture(autouse=True)
def contentless_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def to_meta(tensor: Tensor, device: torch.device) -> Tensor:
        return tensor.to(device)

    for module in (unified, placement, static_placement):
        monkeypatch.setattr(module, "to_device", to_meta)
    monkeypatch.setattr(offloaded, "carrier_of", lambda device: HostCarrier())
    paged_attention._way.cache_clear()
    yield
    paged_attention._way.cache_clear()


def contentless(family: str) -> LoadedModel:
    made = adopt_model(random_model(family, dtype=torch.bfloat16), name=family, options=WeightOptions(form="dense"))
    made.model.to(META)
    return made


def spans(store: UnifiedDynamicCache, *shapes: tuple[int, int]) -> list[Span]:
    """Sequences of so many new rows and rows in all, over scattered blocks."""
    free = list(range(store.num_blocks))
    Random(1).shuffle(free)
    made: list[Span] = []
    for number, (num_new, length) in enumerate(shapes):
        table = store.new_table(number)
        table.place([free.pop() for _ in range(-(-length // store.block_size))])
        made.append(Span(table, made[-1].stop if made else 0, num_new, length - num_new))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_of_prompts_and_decodes_runs_whole_layers_without_an_answer(family: str) -> None:
    model = contentless(family)
    store = UnifiedDynamicCache(BlockLedger(64, 4, 0), META, Layout.PAGES)
    batch = spans(store, (5, 5), (1, 30), (4, 12), (1, 7))
    num_rows = batch[-1].stop
    forward_pass = ForwardPass(
        model.model,
        model.facts.experts_by_layer,
        RaggedCache(store, batch, model.latent_layers),
        torch.zeros(num_rows, dtype=torch.int64, device=META),
        torch.zeros(num_rows, dtype=torch.int64, device=META),
        torch.zeros(len(batch), dtype=torch.int64, device=META),
    )
    for weights in model.expert_weights:
        forward_pass.run_attention(None if weights is None else weights.run_whole)
    assert forward_pass.cursor == Cursor(model.facts.num_layers)
    assert forward_pass.logits is not None
    assert forward_pass.logits.shape[0] == len(batch)


def test_the_same_with_experts_one_by_one_asks_who_goes_where() -> None:
    model = contentless("mixtral")
    store = UnifiedDynamicCache(BlockLedger(64, 4, 0), META, Layout.PAGES)
    batch = spans(store, (100, 100))
    zeros = torch.zeros(100, dtype=torch.int64, device=META)
    cache_of_pass = RaggedCache(store, batch, model.latent_layers)
    forward_pass = ForwardPass(
        model.model, model.facts.experts_by_layer, cache_of_pass, zeros, zeros, torch.zeros_like(zeros[:1])
    )
    with pytest.raises(NotImplementedError, match="bincount"):
        forward_pass.run_attention()


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("is_static", [False, True])
def test_torch_s_operator_takes_what_attention_asks_of_it_and_asks_nothing(is_static: bool, window: int | None) -> None:
    store = UnifiedDynamicCache(BlockLedger(64, 16, 0), META, Layout.PAGES)
    if is_static:
        where: Any = StaticPlacement(4, 8, 16, store.scratch_block, META)
    else:
        where = Placement(spans(store, (5, 5), (1, 30), (4, 12), (1, 7)), 16, META)
    num_rows = 4 if is_static else 11
    k, v = (torch.empty(65 * 16, 2, 64, dtype=torch.bfloat16, device=META) for _ in "kv")
    q = torch.empty(num_rows, 8, 64, dtype=torch.bfloat16, device=META)
    attended = paged_attention._attend_packed(q, Pages(k, v, 16), where, Scores(0.125, window))
    assert attended.shape == q.shape
