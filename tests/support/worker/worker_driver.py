"""A scheduler of a few lines that owns block ids and drives a Runner, for tests of the worker."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

import torch

from gpu_worker.cache.compressed import Form
from gpu_worker.cache.disk_store import DiskStore
from gpu_worker.cache.unified import Layout
from gpu_worker.contract.commands import AddSequence, BatchItem, Sampling, Tier
from gpu_worker.contract.results import AdvanceOutcome, SampledToken, ScoredTokens
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.execution.runner import Runner
from gpu_worker.model.loader import LoadedModel, adopt_model
from gpu_worker.model.weights import WeightOptions, Weights
from tests.support.models.families import random_model

GREEDY = Sampling()


@cache
def loaded(
    family: str = "mixtral", dtype: torch.dtype = torch.float32, device: str = "cpu", form: Weights = "auto"
) -> LoadedModel:
    """A tiny model of a family, ready to be suspended; shared, because runners keep nothing in it."""
    model = random_model(family, dtype=dtype).to(device)
    return adopt_model(model, name=family, options=WeightOptions(form=form))


def random_prompts(lengths: Iterable[int], seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Prompts of random tokens."""
    rng = Random(seed)
    return tuple(tuple(rng.randrange(3, 500) for _ in range(length)) for length in lengths)


@dataclass(eq=False)
class Story:
    """What the driver knows of one sequence."""

    seq_id: int
    prompt: tuple[int, ...]
    max_tokens: int
    num_cached: int = 0
    outputs: list[SampledToken] = field(default_factory=list)
    block_ids: list[int] = field(default_factory=list)
    in_batch: int | None = None
    is_offloaded: bool = False
    num_blocks_away: int = 0
    is_scored: bool = False
    scored: list[ScoredTokens] = field(default_factory=list)
    next_token: int | None = None  # which the runner has not sampled for it

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token.token_id for token in self.outputs)

    @property
    def is_over(self) -> bool:
        return bool(self.outputs) and self.outputs[-1].finish_reason is not None


class Driver:
    """Drives a runner; with `rng` blocks are handed out in random order, so that sequences lie scattered.

    Attributes:
        free: Blocks that nobody holds.
        holders: How many stories hold each of the others.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        rng: Random | None = None,
        layout: Layout | None = None,
        num_host_blocks: int | None = None,
        disk: DiskStore | None = None,
        form: Form | None = None,
    ) -> None:
        num_host_blocks = num_blocks if num_host_blocks is None else num_host_blocks
        self.runner = Runner(model, num_blocks, block_size, num_host_blocks, layout=layout, disk=disk, form=form)
        self.end = Cursor(model.facts.num_layers)
        self.stories: dict[int, Story] = {}
        self.batches: dict[int, list[tuple[Story, BatchItem]]] = {}
        self.free = list(range(num_blocks))
        self.holders: Counter[int] = Counter()
        self._experts = model.facts.experts_by_layer
        self._block_size = block_size
        self._rng = rng
        self._next_id = 1
        if rng:
            rng.shuffle(self.free)

    def add(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling = GREEDY,
        *,
        shared: Sequence[int] = (),
        is_scored: bool = False,
        **settings: Any,
    ) -> Story:
        """Adds a story, whose first tokens `shared` blocks hold already, and whose prompt is scored if so."""
        num_cached = len(shared) * self._block_size
        story = Story(self._new_id(), tuple(prompt), max_tokens, num_cached, is_scored=is_scored)
        stop_ids = settings.pop("stop_token_ids", ())
        self.runner.add_sequence(
            AddSequence(story.seq_id, sampling, stop_ids, max_tokens, shared_block_ids=shared, **settings)
        )
        story.block_ids = self._hold(shared)
        self.stories[story.seq_id] = story
        return story

    def fork(self, parent: Story, max_tokens: int, sampling: Sampling = GREEDY) -> Story:
        """Adds a story that goes on where another stands."""
        had = {"num_output_tokens": len(parent.outputs), "prompt_token_ids": sorted(set(parent.prompt))}
        child = self.add(parent.prompt, max_tokens, sampling, **had, output_token_ids=parent.token_ids)
        child.next_token = parent.token_ids[-1] if parent.outputs else None
        num_full, num_more = divmod(parent.num_cached, self._block_size)
        copied = self._take_blocks(min(1, num_more))
        self.runner.fork_sequence(child.seq_id, parent.seq_id, copied)
        child.block_ids = [*self._hold(parent.block_ids[:num_full]), *copied]
        child.num_cached, child.outputs = parent.num_cached, list(parent.outputs)
        return child

    def start(self, *stories: Story, chunk: int = 10_000) -> int:
        """Starts an iteration of the stories: the next chunk of each prompt, or a decode."""
        items = [self._next_item(story, chunk) for story in stories]
        batch_id = self._new_id()
        self.runner.start_batch(batch_id, items)
        for story in stories:
            story.in_batch = batch_id
        self.batches[batch_id] = list(zip(stories, items, strict=True))
        return batch_id

    def advance(
        self, *batch_ids: int, until: Cursor | None = None, goes_on: Callable[[Cursor], bool] = lambda cursor: True
    ) -> AdvanceOutcome:
        """Advances batches, to the end unless told, and takes in what comes out."""
        outcome = self.runner.advance(batch_ids, until or self.end, goes_on)
        self._take(outcome, batch_ids, until or self.end)
        return outcome

    def cursor(self, batch_id: int) -> Cursor:
        """Where a batch stands, by looking inside."""
        return self.runner._batches[batch_id].cursor

    def next_cursor(self, cursor: Cursor) -> Cursor:
        """The smallest cursor past one."""
        experts = self._experts[cursor.layer]
        if cursor.stage is Stage.ATTENTION and experts:
            return Cursor(cursor.layer, Stage.EXPERTS, 0)
        if cursor.stage is Stage.EXPERTS and cursor.expert + 1 < experts:
            return Cursor(cursor.layer, Stage.EXPERTS, cursor.expert + 1)
        return Cursor(cursor.layer + 1)

    def finish(self, *stories: Story, chunk: int = 10_000) -> None:
        """Runs the stories in one batch an iteration until all are over."""
        while live := [story for story in stories if not story.is_over]:
            outcome = self.advance(self.start(*live, chunk=chunk))
            assert not outcome.batch_errors, outcome.batch_errors

    def drop(self, story: Story) -> None:
        self.runner.drop_sequence(story.seq_id)
        self.forget(story)

    def forget(self, story: Story) -> None:
        """Notes that the runner has forgotten a story."""
        self._give_up(story)
        del self.stories[story.seq_id]
        for members in self.batches.values():
            members[:] = [member for member in members if member[0] is not story]

    def drop_batch(self, batch_id: int) -> None:
        self.runner.drop_batch(batch_id)
        for story, _ in self.batches.pop(batch_id):
            story.in_batch = None

    def offload(self, story: Story, tier: Tier = Tier.HOST) -> None:
        self.runner.offload_sequence(story.seq_id, tier)
        if not story.is_offloaded:
            story.is_offloaded, story.num_blocks_away = True, len(story.block_ids)
            self._give_up(story)

    def restore(self, story: Story, shared: Sequence[int] = ()) -> None:
        """Brings a story back; `shared` blocks hold its first rows already."""
        story.block_ids = [*self._hold(shared), *self._take_blocks(story.num_blocks_away - len(shared))]
        self.runner.restore_sequence(story.seq_id, story.block_ids, len(shared))
        story.is_offloaded = False

    def check_nothing_left(self) -> None:
        """Asserts that once all sequences are dropped, all blocks are free."""
        self.runner.cache.check_integrity()
        for story in list(self.stories.values()):
            self.drop(story)
        blocks = self.runner.cache.blocks
        assert (blocks.num_free_blocks, blocks.num_free_host_blocks) == (blocks.num_blocks, blocks.num_host_blocks)
        assert blocks.num_free_disk_blocks == blocks.num_disk_blocks
        assert sorted(self.free) == list(range(blocks.num_blocks))

    def _take(self, outcome: AdvanceOutcome, batch_ids: Sequence[int], until: Cursor) -> None:
        for token in outcome.tokens:
            story = self.stories[token.seq_id]
            story.outputs.append(token)
            story.next_token = None
        for scored in outcome.scored:
            self.stories[scored.seq_id].scored.append(scored)
        failed = {error.batch_id for error in outcome.batch_errors}
        for batch_id in batch_ids:
            if batch_id in self.runner._batches:
                continue
            for story, item in self.batches.pop(batch_id):
                story.in_batch = None
                story.num_cached = 0 if batch_id in failed else item.first_position + item.num_tokens

    def _next_item(self, story: Story, chunk: int) -> BatchItem:
        left = story.prompt[story.num_cached :]
        if story.next_token is not None:
            left = (story.next_token,)
        tokens = left[:chunk]
        num_tokens = len(tokens) or 1
        wanted = -(-(story.num_cached + num_tokens) // self._block_size) - len(story.block_ids)
        new_block_ids = self._take_blocks(max(0, wanted))
        story.block_ids = story.block_ids + new_block_ids
        scored = left[1 : len(tokens) + 1] if story.is_scored else ()
        samples = len(tokens) == len(left)
        return BatchItem(story.seq_id, num_tokens, tokens, story.num_cached, new_block_ids, samples, scored)

    def _take_blocks(self, count: int) -> list[int]:
        if self._rng:
            self._rng.shuffle(self.free)
        taken = self.free[:count]
        assert len(taken) == count, "the test's own pool is too small"
        return self._hold(taken)

    def _hold(self, block_ids: Sequence[int]) -> list[int]:
        self.holders.update(block_ids)
        self.free = [block_id for block_id in self.free if not self.holders[block_id]]
        return list(block_ids)

    def _give_up(self, story: Story) -> None:
        self.holders.subtract(story.block_ids)
        self.free += [block_id for block_id in story.block_ids if not self.holders[block_id]]
        story.block_ids = []

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id
