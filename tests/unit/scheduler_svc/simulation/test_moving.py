"""Moving caches keeps a virtual worker as long as its cost table says, and is reported with the next step."""

from collections.abc import Iterable

from qllm.cost_table import parse_cost_table

from scheduler_svc.core.state.commands import (
    AddSequence,
    Advance,
    BatchItem,
    Command,
    DropSequence,
    ForkSequence,
    OffloadSequence,
    Preempt,
    RestoreSequence,
    StartBatch,
)
from scheduler_svc.core.state.cursor import Cursor, PreemptAt
from scheduler_svc.core.state.ids import BatchId, BlockId, CommandId, SeqId
from scheduler_svc.core.state.results import StepResult
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, StopConditions
from scheduler_svc.simulation.step_costs import StepCosts
from scheduler_svc.simulation.virtual_worker import VirtualWorker

# A block takes a second off the device and half a second back; an iteration takes 20 ms and the head none.
TABLE = {
    "name": "small",
    "source": "a test",
    "num_layers": 2,
    "num_experts": 1,
    "num_experts_per_token": 1,
    "max_model_len": 512,
    "num_blocks": 16,
    "num_host_blocks": 16,
    "attention_us": {"fixed": 10_000, "per_token": 0, "per_pair": 0},
    "expert_us": {"fixed": 0, "per_token": 0},
    "head_us": {"fixed": 0, "per_row": 0},
}
MOVING = {"block_bytes": 1 << 30, "offload_gib_per_s": 1, "restore_gib_per_s": 2}
ONE, TWO = SeqId(1), SeqId(2)


def make_worker(*, moving: bool = True) -> VirtualWorker:
    return VirtualWorker(StepCosts(parse_cost_table({**TABLE, "moving": MOVING} if moving else TABLE)))


def blocks(*numbers: int) -> tuple[BlockId, ...]:
    return tuple(map(BlockId, numbers))


def add(seq_id: SeqId, *shared: int) -> AddSequence:
    return AddSequence(seq_id, SamplingParams(), StopConditions(1), 0, blocks(*shared))


def start(batch_id: int, seq_id: SeqId, *new_blocks: int) -> StartBatch:
    item = BatchItem(seq_id, 1, (5,), 0, blocks(*new_blocks), samples=True)
    return StartBatch(BatchId(batch_id), RequestClass.BEST_EFFORT, (item,))


def advance(batch_id: int) -> Advance:
    return Advance(CommandId(batch_id), (BatchId(batch_id),), Cursor(2), PreemptAt.LAYER)


def result_of(worker: VirtualWorker, commands: Iterable[Command], now_s: float) -> tuple[float, StepResult]:
    worker.receive(commands, now_s)
    assert worker.ends_s is not None
    return worker.ends_s, worker.complete()


def test_work_waits_for_a_cache_that_is_moved_and_the_result_tells_how_long_that_took() -> None:
    worker = make_worker()
    ends_s, _ = result_of(worker, [add(ONE), start(1, ONE, 0, 1), advance(1)], 0.0)
    moving = [OffloadSequence(ONE), add(TWO), start(2, TWO, 0), advance(2)]
    later_s, result = result_of(worker, moving, ends_s)
    assert abs(later_s - ends_s - 2.02) < 1e-9
    assert (result.timing.num_offloaded_blocks, result.timing.offload_ns) == (2, 2_000_000_000)
    assert result.idle_ns == 0
    _, after = result_of(worker, [start(3, TWO), advance(3)], later_s)
    assert (after.timing.num_offloaded_blocks, after.timing.offload_ns) == (0, 0)


def test_blocks_that_are_shared_are_moved_off_and_not_moved_back() -> None:
    worker = make_worker()
    ends_s, _ = result_of(worker, [add(ONE, 7, 8), start(1, ONE, 0), advance(1)], 0.0)
    moving = [OffloadSequence(ONE), RestoreSequence(ONE, blocks(7, 8, 3), num_shared_blocks=2), start(2, ONE)]
    later_s, result = result_of(worker, [*moving, advance(2)], ends_s)
    assert abs(later_s - ends_s - 3.52) < 1e-9
    assert result.timing.num_offloaded_blocks == 3
    assert (result.timing.num_restored_blocks, result.timing.restore_ns) == (1, 500_000_000)


def test_sharing_and_forking_take_no_time() -> None:
    worker = make_worker()
    commands = [add(ONE, 1, 2, 3), add(TWO), ForkSequence(TWO, ONE, blocks(4)), start(1, TWO), advance(1)]
    ends_s, _ = result_of(worker, commands, 0.0)
    assert abs(ends_s - 0.02) < 1e-9
    later_s, result = result_of(
        worker, [DropSequence(ONE), OffloadSequence(TWO), add(ONE), start(2, ONE), advance(2)], 1
    )
    assert result.timing.num_offloaded_blocks == 3
    assert abs(later_s - 4.02) < 1e-9


def test_without_its_costs_moving_takes_no_time_and_is_counted_all_the_same() -> None:
    worker = make_worker(moving=False)
    ends_s, _ = result_of(worker, [add(ONE), start(1, ONE, 0, 1), advance(1)], 0.0)
    later_s, result = result_of(worker, [OffloadSequence(ONE), add(TWO), start(2, TWO, 0), advance(2)], ends_s)
    assert abs(later_s - ends_s - 0.02) < 1e-9
    assert (result.timing.num_offloaded_blocks, result.timing.offload_ns) == (2, 0)


def test_work_that_is_preempted_before_the_moves_ahead_of_it_end_does_nothing() -> None:
    worker = make_worker()
    ends_s, _ = result_of(worker, [add(ONE), start(1, ONE, 0), advance(1)], 0.0)
    worker.receive([OffloadSequence(ONE), add(TWO), start(2, TWO, 0), advance(2)], ends_s)
    worker.receive([Preempt(CommandId(2), CommandId(2))], ends_s + 0.5)
    assert worker.ends_s is not None
    assert abs(worker.ends_s - ends_s - 1.0) < 1e-9
    assert worker.complete().reached == Cursor(0)
