"""A CUDA device has what the worker tries at start, so no slower way is taken, and each gives what the plain way does.

The most valuable come first: a machine may be at hand for minutes only.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpu_worker.attention import paged as paged_attention
from gpu_worker.attention.paged import Pages, Scores
from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.carrier import SideStreamCarrier
from gpu_worker.cache.placement import Placement
from gpu_worker.cache.span import Span
from gpu_worker.cache.unified import UnifiedDynamicCache
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.experts.queues import ExpertQueues, ExpertWork, is_experts, run_jointly
from gpu_worker.machine.clock import DeviceClock, clock_of
from gpu_worker.machine.host_memory import HostMemory
from gpu_worker.model.loader import LoadedModel, load_model
from gpu_worker.model.weights import Quantization, WeightOptions
from gpu_worker.replay.recorded_pass import RecordedPass
from tests.support.models.families import generated, tiny_config
from tests.support.worker.device_drivers import OTHER, PROMPT, driver_of, with_recordings
from tests.support.worker.worker_driver import Driver, loaded, random_prompts

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda", 0)
HEADS, KV_HEADS, WIDTH, BLOCK_SIZE = 16, 4, 128, 16


def test_full_precision_on_a_device_gives_the_tokens_of_generate() -> None:
    prompts = random_prompts((5, 23, 11))
    driver = Driver(loaded("mixtral", device="cuda"))
    stories = [driver.add(prompt, 6) for prompt in prompts]
    driver.finish(*stories, chunk=9)
    assert tuple(story.token_ids for story in stories) == generated("mixtral", prompts, 6)


def test_decodes_replayed_from_graphs_give_the_tokens_that_the_model_itself_gives(mixtral: LoadedModel) -> None:
    are_replayed, outputs = [], []
    for driver in (driver_of(mixtral), with_recordings(mixtral)):
        stories = [driver.add(prompt, 12) for prompt in (PROMPT, OTHER)]
        driver.advance(driver.start(*stories))
        batch_id = driver.start(*stories)
        are_replayed.append(isinstance(driver.runner._batches[batch_id].forward_pass, RecordedPass))
        driver.advance(batch_id)
        driver.finish(*stories)
        outputs.append([story.token_ids for story in stories])
    assert are_replayed == [False, True]
    assert outputs[0] == outputs[1]


def test_rows_of_a_graph_that_stand_for_nobody_change_nothing(mixtral: LoadedModel) -> None:
    logprobs = []
    for driver in (driver_of(mixtral), with_recordings(mixtral)):
        stories = [driver.add(prompt, 2) for prompt in (PROMPT, OTHER, PROMPT[:50])]  # three in a graph for four
        driver.finish(*stories)
        logprobs.append([token.logprob for story in stories for token in story.outputs])
    assert logprobs[1] == pytest.approx(logprobs[0], abs=0.05)


def _spans(*shapes: tuple[int, int]) -> tuple[list[Span], int]:
    """Sequences of so many new rows and rows in all, over blocks that lie scattered; and the slots that there are."""
    blocks_each = -(-max(length for _, length in shapes) // BLOCK_SIZE)
    spans: list[Span] = []
    for number, (num_new, length) in enumerate(shapes):
        table = BlockTable(number, BLOCK_SIZE, CUDA)
        table.place(list(range(number, blocks_each * len(shapes), len(shapes))))
        spans.append(Span(table, spans[-1].stop if spans else 0, num_new, length - num_new))
    return spans, blocks_each * len(shapes) * BLOCK_SIZE


@pytest.mark.parametrize("is_static", [False, True])
def test_half_precision_attends_in_a_kernel_made_for_it(is_static: bool) -> None:
    heads, kv_heads = torch.Size((HEADS, WIDTH)), torch.Size((KV_HEADS, WIDTH))
    way = paged_attention._way(CUDA, torch.bfloat16, heads, kv_heads, kv_heads, BLOCK_SIZE, is_static)
    assert way in (paged_attention._attend_paged, paged_attention._attend_packed), "see the log for why"


@pytest.mark.parametrize("window", [None, 1000])
def test_long_prompts_and_decodes_attend_as_in_full_precision(window: int | None) -> None:
    spans, num_slots = _spans((700, 3000), (1, 2048), (1, 17), (300, 300))
    placement = Placement(spans, BLOCK_SIZE, CUDA)
    random = torch.Generator(CUDA).manual_seed(0)
    rows = (torch.randn(num_slots, KV_HEADS, WIDTH, generator=random, device=CUDA) for _ in "kv")
    k, v = (lying.to(torch.bfloat16) for lying in rows)
    q = torch.randn(placement.num_rows, HEADS, WIDTH, generator=random, device=CUDA).to(torch.bfloat16)
    scores = Scores(WIDTH**-0.5, window)
    attended = paged_attention.attend_all(q, Pages(k, v, BLOCK_SIZE), placement, scores)
    wide = Pages(k.float(), v.float(), BLOCK_SIZE)
    expected = paged_attention._attend_padded(q.float(), wide, placement, scores)
    assert (attended.float() - expected).abs().max() <= 2e-2 * expected.abs().max()


@pytest.mark.parametrize(("num_tokens", "chosen"), [(1, (0, 3)), (5, (6, 7)), (300, range(8)), (2000, (1, 2, 5))])
def test_grouped_products_give_what_experts_one_by_one_give(
    num_tokens: int, chosen: Iterable[int], mixtral: LoadedModel
) -> None:
    module = next(module for module in mixtral.model.modules() if is_experts(module))
    weights = next(weights for weights in mixtral.expert_weights if weights is not None)
    assert weights.runs_whole, "see the log for why"
    random = torch.Generator(CUDA).manual_seed(0)
    hidden = torch.randn(num_tokens, 2048, generator=random, device=CUDA).to(torch.bfloat16)
    ids = torch.tensor(list(chosen), device=CUDA)  # some groups are empty
    scores = torch.rand(num_tokens, len(ids), generator=random, device=CUDA)
    factors, places = scores.topk(2)
    work = ExpertWork(module, hidden, ids[places], factors.to(torch.bfloat16))
    queues = ExpertQueues(work, 8, None)
    while not queues.is_done:
        run_jointly(weights, [queues], queues.next_expert)
    expected = queues.result().float()
    assert (weights.run_whole(work).float() - expected).norm() <= 1e-2 * expected.norm()


def test_rows_leave_for_locked_memory_and_come_back_whole() -> None:
    carrier = SideStreamCarrier(CUDA)
    random = torch.Generator(CUDA).manual_seed(0)
    stores = [torch.randn(4096, 4, 128, generator=random, device=CUDA).to(torch.bfloat16) for _ in range(8)]
    expected = [_some_rows(store)[0].cpu() for store in stores]
    taken = carrier.take_out([partial(_some_rows, store) for store in stores], range(10))
    carrier.claim([3])
    for store in stores:
        store.zero_()  # the blocks are somebody else's now
    back = [carrier.bring_back(rows) for (rows,) in taken]
    assert all(rows.is_pinned() for (rows,) in taken), "see the log for why"
    assert all(rows.cpu().equal(theirs) for rows, theirs in zip(back, expected, strict=True))


def _some_rows(store: Tensor) -> tuple[Tensor, ...]:
    """Rows (H, 3000, width) as they lie in pages, heads of a slot side by side."""
    return (store[:3000].transpose(0, 1),)


def test_small_indices_lie_in_locked_memory_and_events_tell_the_time() -> None:
    assert HostMemory("indices").empty((3,), torch.int64).is_pinned()
    assert isinstance(clock_of(CUDA, 1.0), DeviceClock)


def test_rows_past_two_billion_numbers_of_a_store_are_found_again() -> None:
    if torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("needs 20 GiB of device memory")
    num_blocks = (1 << 31) // (8 * WIDTH * BLOCK_SIZE) + 100
    store = UnifiedDynamicCache(BlockLedger(num_blocks, BLOCK_SIZE, 0), CUDA)
    table = store.new_table(1)
    store.extend(table, [num_blocks - 1, 0])
    rows = (
        torch.arange(1, 8 * 2 * BLOCK_SIZE * WIDTH + 1, device=CUDA).view(8, 2 * BLOCK_SIZE, WIDTH).to(torch.bfloat16)
    )
    store.write(0, table.slots(0, 2 * BLOCK_SIZE).to(CUDA), rows, rows)
    for lying in store.read(0, table, 0, 2 * BLOCK_SIZE):
        assert lying.equal(rows)
    assert all(int(lying.count_nonzero()) == rows.numel() for lying in store.slots_first(0))


@pytest.mark.parametrize(("scheme", "most_bytes"), [("bnb-4bit", 0.7), ("bnb-8bit", 1.2)])
def test_quantized_experts_are_small_and_answer_on_a_device(
    scheme: Quantization, most_bytes: float, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    tiny_config("mixtral", dtype="bfloat16").save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cuda", options=WeightOptions(source="dummy", quantization=scheme))
    mixtures = [weights for weights in model.expert_weights if weights is not None]
    assert sum(weights.nbytes for weights in mixtures) < most_bytes * sum(weights.num_weights for weights in mixtures)
    driver = Driver(model)
    stories = [driver.add(prompt, 4) for prompt in random_prompts((5, 40))]
    driver.finish(*stories)
    assert [len(story.token_ids) for story in stories] == [4, 4]
