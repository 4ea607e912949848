"""A worker without a model: carries commands out in order and answers, in virtual time. Time is an argument.

Cache and host memory are the core's own accounts; of a sequence's cache the worker knows only how many blocks it has,
for moving it keeps the worker as long as the cost table says. Every output is as long as it may be.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from scheduler_svc.core.beams.search import Candidate
from scheduler_svc.core.state.batch import Shape
from scheduler_svc.core.state.commands import (
    AddSequence,
    Advance,
    BatchItem,
    Command,
    DropBatch,
    DropSequence,
    ForkSequence,
    OffloadSequence,
    Preempt,
    RestoreSequence,
    StartBatch,
)
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.results import SampledToken, StepResult, WorkTiming
from scheduler_svc.simulation.moving import Moves
from scheduler_svc.simulation.running_step import RunningStep, UnitNumbering
from scheduler_svc.simulation.step_costs import StepCosts


@dataclass(slots=True)
class _VirtualBatch:
    """A suspended iteration: its live items by sequence, and where it stands."""

    items: dict[int, BatchItem]
    place: int = 0


@dataclass(slots=True)
class _Running:
    command: Advance
    step: RunningStep


@dataclass(slots=True)
class VirtualWorker:
    """The worker's side of the control channel.

    Attributes:
        num_tokens: Tokens that went through the whole model so far, prompts included.
    """

    costs: StepCosts
    num_tokens: int = 0
    _numbering: UnitNumbering = field(init=False)
    _batches: dict[int, _VirtualBatch] = field(default_factory=dict)
    _queue: deque[Command] = field(default_factory=deque)
    _running: _Running | None = None
    _preempted_ids: range = range(0)
    _free_since_s: float = 0.0
    _moves: Moves = field(init=False)
    _num_candidates: dict[SeqId, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbering = UnitNumbering(self.costs.num_layers, self.costs.num_experts)
        self._moves = Moves(self.costs)

    @property
    def ends_s(self) -> float | None:
        """When the step that runs ends; None while nothing runs."""
        return self._running.step.ends_s if self._running else None

    def receive(self, commands: Iterable[Command], now_s: float) -> None:
        """Takes commands in; all but Preempt wait their turn."""
        for command in commands:
            if isinstance(command, Preempt):
                self._preempt(command, now_s)
            else:
                self._queue.append(command)
        self.start_next(now_s)

    def start_next(self, now_s: float) -> None:
        """Carries out what waits, up to and including the start of the next Advance."""
        while self._running is None and self._queue:
            command = self._queue.popleft()
            if isinstance(command, Advance):
                self._start(command, now_s)
            else:
                self._apply(command, now_s)

    def complete(self) -> StepResult:
        """Ends the step that runs; its timing tells what was moved since the last one too."""
        assert self._running is not None
        command, step = self._running.command, self._running.step
        self._running = None
        moved = self._moves.take_timing()
        timing = _with_moves(step.timing, moved)
        idle_ns = round(1e9 * (step.begin_s - self._free_since_s)) - moved.offload_ns - moved.restore_ns
        self._free_since_s = step.ends_s
        duration_ns = timing.attention_ns + timing.expert_ns + timing.head_ns
        reached, tokens = self._numbering.cursor(step.until), self._move(command, step.until)
        return StepResult(command.command_id, reached, duration_ns, max(0, idle_ns), tokens, (), timing)

    def _apply(self, command: Command, now_s: float) -> None:
        match command:
            case StartBatch(batch_id, _, items):
                self._batches[batch_id] = _VirtualBatch({item.seq_id: item for item in items})
                for item in items:
                    self._moves.grow(item.seq_id, len(item.new_block_ids))
            case DropBatch(batch_id):
                self._batches.pop(batch_id, None)
            case AddSequence(seq_id, sampling):
                self._moves.grow(seq_id, len(command.shared_block_ids))
                self._num_candidates[seq_id] = sampling.num_candidates
            case ForkSequence(seq_id, parent_seq_id):
                self._moves.fork(seq_id, parent_seq_id)
            case DropSequence(seq_id):
                self._moves.forget(seq_id)
                self._num_candidates.pop(seq_id, None)
                for batch in self._batches.values():
                    batch.items.pop(seq_id, None)
            case OffloadSequence(seq_id):
                self._moves.offload(seq_id, now_s)
            case RestoreSequence(seq_id, block_ids, num_shared_blocks):
                self._moves.restore(seq_id, len(block_ids), num_shared_blocks, now_s)

    def _start(self, command: Advance, now_s: float) -> None:
        batches = [self._batches[batch_id] for batch_id in command.batch_ids]
        items = [item for batch in batches for item in batch.items.values()]
        shape = Shape(
            num_tokens=sum(item.num_tokens for item in items),
            num_pairs=sum(item.num_tokens * (item.first_position + item.num_tokens) for item in items),
            num_rows=sum(item.samples for item in items),
            num_passes=len(batches),
        )
        start = batches[0].place
        until = start if self._is_preempted(command) else self._numbering.place(command.until)
        times = self.costs.unit_times(shape)
        begin_s = max(now_s, self._moves.end_s)
        step = RunningStep(self.costs, self._numbering, shape, times, begin_s, start, until, command.preempt_at)
        self._running = _Running(command, step)

    def _preempt(self, preempt: Preempt, now_s: float) -> None:
        self._preempted_ids = preempt.command_ids
        if self._running is not None and self._is_preempted(self._running.command):
            self._running.step.cut_short(now_s)

    def _is_preempted(self, command: Advance) -> bool:
        return command.preempt_at is not None and command.command_id in self._preempted_ids

    def _move(self, command: Advance, place: int) -> tuple[SampledToken, ...]:
        """Moves the batches to where they stand now; returns the tokens of those that ended."""
        tokens: list[SampledToken] = []
        for batch_id in command.batch_ids:
            batch = self._batches[batch_id]
            batch.place = place
            if place == self._numbering.end:
                self.num_tokens += sum(item.num_tokens for item in batch.items.values())
                for item in (one for one in batch.items.values() if one.samples):
                    sampled = (item.seq_id, *item.also_sampled_ids)
                    tokens += [_sampled(seq_id, self._num_candidates.get(seq_id, 0)) for seq_id in sampled]
                del self._batches[batch_id]
        return tuple(tokens)


def _sampled(seq_id: SeqId, num_candidates: int) -> SampledToken:
    """Returns the token that every sequence gets, or as many candidates, each a little less probable."""
    candidates = tuple(Candidate(token_id, -float(token_id), -float(token_id)) for token_id in range(num_candidates))
    return SampledToken(seq_id, 0, 0.0, candidates=candidates)


def _with_moves(timing: WorkTiming, moved: WorkTiming) -> WorkTiming:
    return replace(
        timing,
        num_offloaded_blocks=moved.num_offloaded_blocks,
        offload_ns=moved.offload_ns,
        num_restored_blocks=moved.num_restored_blocks,
        restore_ns=moved.restore_ns,
    )
