"""Whatever order a scheduler shares, forks, moves, loses and drops caches in: books agree, and rows are those alone.

After every step the worker's own check finds nothing wrong, its counts are those of the driver, and each sequence's
rows, wherever they lie, are those that a runner computes which never held anything else.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pytest import MonkeyPatch, raises  # noqa: PT013  # as names, for a machine has no fixtures

from gpu_worker.cache.disk_store import DiskStore
from gpu_worker.cache.offloaded import Mover
from gpu_worker.contract.commands import Sampling, Tier
from gpu_worker.cursor import Cursor
from gpu_worker.errors import CacheLost, CommandRefused
from tests.support.models.families import generated
from tests.support.worker.worker_driver import Driver, Story, loaded, random_prompts

BLOCK_SIZE, NUM_BLOCKS, NUM_HOST_BLOCKS, NUM_DISK_BLOCKS = 4, 32, 6, 5
NUM_TOKENS = 4
MOST_STORIES = 5
LONG, OTHER = random_prompts((14, 9))
PROMPTS = (LONG, LONG[:9], OTHER)  # two begin alike
Rows = Mapping[Any, Sequence[torch.Tensor]]


def rows_of(driver: Driver, story: Story) -> Rows:
    """The rows of finished iterations of a story, wherever they lie."""
    cache, table = driver.runner.cache, driver.runner._sequences[story.seq_id].table
    if table.away is not None:
        return {key: [one[:, : story.num_cached] for one in rows] for key, rows in table.away.rows().items()}
    return {key: cache.read(key[0], table, 0, story.num_cached, key[1]) for key in cache._stores}


@cache
def rows_alone(tokens: tuple[int, ...]) -> Rows:
    """The rows of a text that a runner computes which knows no other."""
    driver = Driver(loaded())
    story = driver.add(tokens, 1)
    driver.finish(story)
    return rows_of(driver, story)


@cache
def greedy_text(prompt: tuple[int, ...]) -> tuple[int, ...]:
    return prompt + generated("mixtral", (prompt,), NUM_TOKENS)[0]


@cache
def slot_bytes() -> int:
    driver = Driver(loaded())
    driver.finish(driver.add(OTHER, 1))
    return driver.runner.cache.block_bytes


class PrefixDriver(Driver):
    """A driver that knows which full blocks hold which beginnings, also of those that nobody holds any more.

    Attributes:
        filled: The tokens up to the end of each such block.
    """

    def __init__(self, disk: DiskStore) -> None:
        super().__init__(
            loaded(),
            num_blocks=NUM_BLOCKS,
            block_size=BLOCK_SIZE,
            rng=Random(0),
            num_host_blocks=NUM_HOST_BLOCKS,
            disk=disk,
        )
        self.filled: dict[int, tuple[int, ...]] = {}

    def note_filled(self) -> None:
        """Takes in what the stories on the device have in full blocks."""
        for story in self.stories.values():
            for number, block_id in enumerate(story.block_ids[: story.num_cached // BLOCK_SIZE], start=1):
                self.filled[block_id] = text_of(story)[: number * BLOCK_SIZE]

    def beginning_of(self, tokens: tuple[int, ...], most_blocks: int) -> list[int]:
        """Blocks that hold the first tokens."""
        by_text = {text: block_id for block_id, text in self.filled.items()}
        found: list[int] = []
        while len(found) < most_blocks and (block := by_text.get(tokens[: (len(found) + 1) * BLOCK_SIZE])) is not None:
            found.append(block)
        return found

    def _take_blocks(self, count: int) -> list[int]:
        taken = super()._take_blocks(count)
        for block_id in taken:
            self.filled.pop(block_id, None)
        return taken


def text_of(story: Story) -> tuple[int, ...]:
    return story.prompt + story.token_ids


class Memory(RuleBasedStateMachine):
    """A scheduler that decides at random."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.disk = DiskStore(Path(self.directory.name), NUM_DISK_BLOCKS, slot_bytes())
        self.driver = PrefixDriver(self.disk)
        self.greedy: set[Story] = set()

    def teardown(self) -> None:
        for batch_id in list(self.driver.batches):
            self.driver.drop_batch(batch_id)
        self.driver.check_nothing_left()
        assert self.disk.num_free_slots == NUM_DISK_BLOCKS
        self.directory.cleanup()

    # ---- what there is to choose from

    @property
    def stories(self) -> list[Story]:
        return list(self.driver.stories.values())

    @property
    def idle(self) -> list[Story]:
        return [story for story in self.stories if story.in_batch is None and not story.is_offloaded]

    @property
    def away(self) -> list[Story]:
        return [story for story in self.stories if story.is_offloaded]

    @property
    def has_room(self) -> bool:
        return len(self.driver.free) >= 6 and len(self.stories) < MOST_STORIES

    # ---- rules

    @initialize()
    def begin(self) -> None:
        """Two that begin alike have sampled a token each."""
        first = self.driver.add(LONG, NUM_TOKENS)
        self.driver.advance(self.driver.start(first))
        self.driver.note_filled()
        self.greedy.add(first)
        self.add(LONG[:9], shares=True)
        self.driver.advance(self.driver.start(self.stories[-1]))
        self.driver.note_filled()

    @precondition(lambda self: self.has_room)
    @rule(prompt=st.sampled_from(PROMPTS), shares=st.booleans())
    def add(self, prompt: tuple[int, ...], shares: bool) -> None:
        most = (len(prompt) - 1) // BLOCK_SIZE if shares else 0
        self.greedy.add(self.driver.add(prompt, NUM_TOKENS, shared=self.driver.beginning_of(prompt, most)))

    @precondition(lambda self: len(self.driver.free) >= 6 and any(not story.is_over for story in self.idle))
    @rule(choice=st.data(), chunk=st.sampled_from([3, 50]), layer=st.sampled_from([0, 1, 3, 3, 3]))
    def start(self, choice: st.DataObject, chunk: int, layer: int) -> None:
        ready = [story for story in self.idle if not story.is_over]
        number = choice.draw(st.integers(1, min(2, len(ready))))
        self.driver.advance(self.driver.start(*ready[-number:], chunk=chunk), until=Cursor(layer))
        self.driver.note_filled()

    @precondition(lambda self: self.driver.batches)
    @rule(choice=st.data(), layer=st.sampled_from([1, 2, 3, 3, 3]))
    def advance(self, choice: st.DataObject, layer: int) -> None:
        batch_id = choice.draw(st.sampled_from(list(self.driver.batches)))
        members = [story for story, _ in self.driver.batches[batch_id]]
        if any(story.is_offloaded for story in members):
            with raises(CommandRefused, match="is offloaded, its batch can't go on"):
                self.driver.advance(batch_id, until=Cursor(layer))
        else:
            assert not self.driver.advance(batch_id, until=Cursor(layer)).batch_errors
            self.driver.note_filled()

    @precondition(lambda self: self.has_room and self.idle)
    @rule(choice=st.data(), seed=st.sampled_from([None, None, 1]))
    def fork(self, choice: st.DataObject, seed: int | None) -> None:
        parent = choice.draw(st.sampled_from(self.idle))
        child = self.driver.fork(parent, NUM_TOKENS, Sampling() if seed is None else Sampling(1.0, seed=seed))
        if seed is None and parent in self.greedy:
            self.greedy.add(child)

    @precondition(lambda self: self.stories)
    @rule(choice=st.data(), tier=st.sampled_from(Tier), fails=st.sampled_from([False] * 5 + [True]))
    def offload(self, choice: st.DataObject, tier: Tier, fails: bool) -> None:
        story, blocks = choice.draw(st.sampled_from(self.stories)), self.driver.runner.cache.blocks
        is_on = blocks.tier_of(story.seq_id)
        free = blocks.num_free_host_blocks if tier is Tier.HOST else blocks.num_free_disk_blocks
        if blocks.num_blocks_of(story.seq_id) > free or (is_on is not None and (is_on, tier) != (Tier.HOST, Tier.DISK)):
            with raises(CommandRefused):
                self.driver.offload(story, tier)
        elif fails and tier is Tier.DISK:
            with MonkeyPatch.context() as patch:
                patch.setattr(DiskStore, "write", broken)
                with raises(CacheLost):
                    self.driver.offload(story, tier)
            self.driver.forget(story)
        else:
            self.driver.offload(story, tier)

    @precondition(lambda self: self.away and len(self.driver.free) >= 6)
    @rule(choice=st.data(), shares=st.booleans(), fails=st.sampled_from([False, False, False, True]))
    def restore(self, choice: st.DataObject, shares: bool, fails: bool) -> None:
        story = choice.draw(st.sampled_from(self.away))
        most = story.num_cached // BLOCK_SIZE if shares else 0
        shared = self.driver.beginning_of(text_of(story), most)
        if fails:
            with MonkeyPatch.context() as patch:
                patch.setattr(Mover, "bring_back", broken_off)
                with raises(CacheLost):
                    self.driver.restore(story, shared)
            self.driver.forget(story)
        else:
            self.driver.restore(story, shared)
            self.driver.note_filled()

    @precondition(lambda self: len(self.stories) > 1)
    @rule(choice=st.data())
    def drop(self, choice: st.DataObject) -> None:
        self.driver.drop(choice.draw(st.sampled_from(self.stories)))

    @precondition(lambda self: self.driver.batches)
    @rule(choice=st.data())
    def drop_batch(self, choice: st.DataObject) -> None:
        self.driver.drop_batch(choice.draw(st.sampled_from(list(self.driver.batches))))

    # ---- what holds after each

    @invariant()
    def books_agree(self) -> None:
        report = self.driver.runner.integrity(1)
        assert report.problem == ""
        held = [block_id for block_id, count in self.driver.holders.items() if count]
        assert (report.num_sequences, report.num_held_blocks) == (len(self.stories), len(held))
        blocks = self.driver.runner.cache.blocks
        assert {block_id: blocks.num_holders(block_id) for block_id in held} == {
            block_id: self.driver.holders[block_id] for block_id in held
        }

    @invariant()
    def rows_are_those_of_a_runner_that_knows_no_other(self) -> None:
        for story in self.stories:
            assert self.driver.runner._sequences[story.seq_id].num_cached == story.num_cached
            text, greedy = text_of(story), greedy_text(story.prompt)
            if story in self.greedy:
                assert text == greedy[: len(text)]
            if story.num_cached:
                expected = rows_alone(greedy if text == greedy[: len(text)] else text)
                for key, rows in rows_of(self.driver, story).items():
                    for one, other in zip(rows, expected[key], strict=True):
                        assert torch.allclose(one, other[:, : story.num_cached], atol=1e-4)


_bring_back = Mover.bring_back


def broken(*_: object) -> None:
    """What a disk does that fails."""
    raise OSError(5, "Input/output error")


def broken_off(*args: Any) -> Iterator[Any]:
    """Reads the first store, and then no more."""
    yield from islice(_bring_back(*args), 1)
    broken()


def test_no_order_of_commands_mixes_rows_up_or_loses_a_block() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Memory, settings=settings(max_examples=40, stateful_step_count=40, deadline=None, derandomize=True)
    )
