"""Where memory runs out, with the real core and the real model: everybody ends, with the tokens of `generate`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gpu_worker.cache.disk_store import DiskCopy, DiskStore
from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.commands import OffloadSequence
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.sequence import RequestClass, Sequence, Tier
from tests.support.core.model_worker import ModelWorker, model_of
from tests.support.core.simulation import BE, LS, Simulation
from tests.support.models.families import generated
from tests.support.worker.worker_driver import loaded, random_prompts

FAMILY, NUM_TOKENS = "mixtral", 6
PROMPTS = random_prompts((9, 14, 40, 3, 11, 21))
BLOCKS_OF_A_LONG_ONE = 12  # 40 tokens of prompt and 6 of the answer, in blocks of four


@pytest.fixture(autouse=True)
def _engine_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


class Scene:
    """A service with little memory, and what is asked of it."""

    def __init__(
        self,
        num_blocks: int,
        num_host_blocks: int,
        *,
        max_num_seqs: int = 32,
        disk: DiskStore | None = None,
        preempt_at: PreemptAt = PreemptAt.EXPERT,
    ) -> None:
        model = model_of(
            loaded(FAMILY), num_blocks, num_host_blocks, num_disk_blocks=disk.num_free_slots if disk else 0
        )
        limits = Limits(
            max_num_seqs=max_num_seqs, be_chunk_tokens=16, ls_chunk_tokens=24, ls_tpot_s=0.0, control_lead_s=0.001
        )
        self.sim = Simulation(model=model, limits=limits, preempt_at=preempt_at)
        self.sim.worker = self.worker = ModelWorker(model, self.sim.worker.costs, loaded(FAMILY), disk)
        self.asked: dict[int, int] = {}

    def ask(self, time_s: float, request_class: RequestClass, prompt: int, stops_after: int | None = None) -> None:
        """Has a request arrive."""

        def arrive() -> None:
            stop = () if stops_after is None else (generated(FAMILY, PROMPTS, NUM_TOKENS)[prompt][stops_after],)
            salt = str(len(self.asked)).encode()  # so that nobody shares, and memory runs out
            sequence = self.sim.submit(request_class, PROMPTS[prompt], NUM_TOKENS, stop, salt=salt)
            self.asked[sequence.seq_id] = prompt

        self.sim.at(time_s, arrive)

    def play(self) -> None:
        """Lets everything end, and checks that nothing is wrong, lost or left."""
        self.sim.run()
        for seq_id, prompt in self.asked.items():
            whole, stop = generated(FAMILY, PROMPTS, NUM_TOKENS)[prompt], self.sim.sequences[seq_id].stop.stop_token_ids
            expected = whole[: whole.index(stop[0]) + 1] if stop else whole
            assert tuple(self.sim.tokens(seq_id)) == expected
        self.sim.check_integrity()
        self.worker.runner.cache.check_integrity()
        assert self.sim.scheduler.memory.pool.num_free == self.sim.model.num_blocks
        assert self.sim.scheduler.memory.num_free_by_tier == {
            Tier.HOST: self.sim.model.num_host_blocks,
            Tier.DISK: self.sim.model.num_disk_blocks,
        }

    def of_class(self, request_class: RequestClass) -> list[Sequence]:
        return [s for s in self.sim.sequences.values() if s.request_class is request_class]

    @property
    def counters(self) -> Any:
        return self.sim.scheduler.memory.counters


def test_an_arrival_is_served_first_where_every_place_of_a_batch_is_taken() -> None:
    scene = Scene(200, 200, max_num_seqs=2)
    for _ in range(4):
        scene.ask(0.0, BE, 2)
    scene.ask(0.05, LS, 1)
    scene.play()
    (arrival,) = scene.of_class(LS)
    assert all(s.last_token_s > arrival.last_token_s for s in scene.of_class(BE)[1:])  # type: ignore[operator]


def test_an_arrival_is_served_first_where_every_block_is_held() -> None:
    scene = Scene(2 * BLOCKS_OF_A_LONG_ONE, 100)
    for prompt in (2, 5, 2, 5):
        scene.ask(0.0, BE, prompt)
    scene.ask(0.05, LS, 2)
    scene.play()
    assert scene.counters.num_offloads > 0
    assert scene.counters.num_recomputed_tokens == 0  # the host has room
    (arrival,) = scene.of_class(LS)
    assert max(s.last_token_s for s in scene.of_class(BE)) > arrival.last_token_s  # type: ignore[operator,type-var]


def test_an_arrival_is_served_first_where_places_and_blocks_are_taken() -> None:
    scene = Scene(2 * BLOCKS_OF_A_LONG_ONE, 100, max_num_seqs=2)
    for prompt in (2, 5, 1, 0):
        scene.ask(0.0, BE, prompt)
    for i in range(3):
        scene.ask(0.04 + 0.02 * i, LS, 2)
    scene.play()
    assert scene.counters.num_offloads > 0


def test_a_victim_that_has_just_ended_in_the_worker_is_moved_and_dropped_without_a_trace() -> None:
    """The worker knows of an end by a stop token before the scheduler does, which may have chosen it meanwhile."""
    num_ended = 0
    for arrives_s in (0.02 * i for i in range(1, 12)):
        scene = Scene(BLOCKS_OF_A_LONG_ONE + 4, 100, preempt_at=PreemptAt.ITERATION)
        scene.ask(0.0, BE, 2, stops_after=2)
        scene.ask(arrives_s, LS, 2)
        scene.play()
        offloaded = {c.seq_id for c in scene.sim.commands if isinstance(c, OffloadSequence)}
        restored = scene.counters.num_restores
        num_ended += len(offloaded) > restored  # it never had to come back: that iteration was its last
    assert num_ended > 0


def test_latency_sensitive_requests_alone_fill_the_whole_cache_and_give_way_to_each_other() -> None:
    scene = Scene(BLOCKS_OF_A_LONG_ONE, 8)  # which each of the long ones fills by itself
    for i, prompt in enumerate((2, 5, 2, 1, 0, 5)):
        scene.ask(0.001 * i, LS, prompt)
    scene.play()


@pytest.mark.parametrize("num_host_blocks", [0, 3, 9])
def test_where_host_and_disk_are_full_best_effort_work_is_computed_again(tmp_path: Path, num_host_blocks: int) -> None:
    probe = Scene(40, 40)
    scene = Scene(
        2 * BLOCKS_OF_A_LONG_ONE, num_host_blocks, disk=DiskStore(tmp_path, 3, probe.worker.runner_block_bytes)
    )
    for prompt in (2, 5, 1, 2):
        scene.ask(0.0, BE, prompt)
    for i in range(4):
        scene.ask(0.03 + 0.03 * i, LS, (2, 5)[i % 2])
    scene.play()
    assert scene.counters.num_drops > 0


def test_the_disk_takes_what_the_host_has_no_room_for(tmp_path: Path) -> None:
    probe = Scene(40, 40)
    scene = Scene(2 * BLOCKS_OF_A_LONG_ONE, 0, disk=DiskStore(tmp_path, 60, probe.worker.runner_block_bytes))
    for prompt in (2, 5, 2, 5):
        scene.ask(0.0, BE, prompt)
    scene.ask(0.05, LS, 2)
    scene.play()
    assert {c.tier for c in scene.sim.commands if isinstance(c, OffloadSequence)} == {Tier.DISK}
    assert scene.counters.num_drops == 0


@pytest.mark.parametrize("fails", ["write", "read"])
def test_a_disk_that_fails_costs_work_and_no_request(
    tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: DiskStore, given: object) -> DiskCopy:
        raise OSError(28, "No space left on device")

    probe = Scene(40, 40)
    scene = Scene(2 * BLOCKS_OF_A_LONG_ONE, 0, disk=DiskStore(tmp_path, 60, probe.worker.runner_block_bytes))
    monkeypatch.setattr(DiskStore, fails, fail)
    for prompt in (2, 5, 2, 5):
        scene.ask(0.0, BE, prompt)
    scene.ask(0.05, LS, 2)
    scene.play()
    assert scene.counters.num_drops > 0
