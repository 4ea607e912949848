"""A service in virtual time: the real scheduler core against a worker that checks every command and takes stated times.

The worker here checks commands where a real one does, and raises on more: on what a real worker would let
pass, but the core never does.
"""

import heapq
from collections import abc, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from gpu_worker.contract.checks import (
    Known,
    ModelLimits,
    check_add,
    check_advance,
    check_fork,
    check_restore,
    check_start,
)
from gpu_worker.contract.commands import AddSequence as WorkerAdd
from gpu_worker.contract.commands import Sampling
from gpu_worker.contract.commands import Tier as WorkerTier
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.cursor import Cursor as WorkerCursor
from gpu_worker.cursor import Stage as WorkerStage
from scheduler_svc.core.beams.params import BeamParams
from scheduler_svc.core.beams.search import Candidate
from scheduler_svc.core.kinship import search_beams, share_prompt
from scheduler_svc.core.observer import StepObserver
from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.sessions import Programs
from scheduler_svc.core.starvation import StarvationLimits
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
from scheduler_svc.core.state.cursor import START, Cursor, PreemptAt, Stage
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.prompt_scores import PromptScores, ScoredTokens
from scheduler_svc.core.state.results import (
    HypothesesOutput,
    Hypothesis,
    Output,
    PromptOutput,
    SampledToken,
    StepResult,
    TokenOutput,
    WorkerModel,
    WorkTiming,
)
from scheduler_svc.core.state.sequence import (
    RequestClass,
    SamplingParams,
    Sequence,
    SessionTurn,
    StopConditions,
    Targets,
)

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
VOCAB_SIZE = 1 << 16
GREEDY = SamplingParams(0.0)
NO_TARGETS = Targets()


@dataclass(frozen=True)
class Costs:
    """True costs in milliseconds: per attention stage, expert run and head, and what each token or pair adds."""

    attention: tuple[float, float, float] = (0.2, 0.01, 2e-6)
    expert: tuple[float, float] = (0.3, 0.03)
    head: tuple[float, float] = (0.5, 0.1)


@dataclass
class SimSequence:
    """Attributes:
    rows: What its cached rows must be.
    """

    num_cached: int = 0
    rows: list[int] = field(default_factory=list)
    last_token: int | None = None
    batch_id: int | None = None
    num_candidates: int = 0


@dataclass
class SimBatch:
    items: dict[int, BatchItem]
    request_class: RequestClass
    cursor: Cursor = START
    dropped: set[int] = field(default_factory=set)

    @property
    def live_seq_ids(self) -> set[int]:
        return set(self.items) - self.dropped


@dataclass
class Running:
    """The Advance that runs, with the time at which each unit of it is done and where the batches then stand."""

    command: Advance
    batches: tuple[SimBatch, ...]
    begin_s: float
    start: Cursor
    places: list[tuple[float, Cursor]]

    @property
    def ends_s(self) -> float:
        return self.places[-1][0] if self.places else self.begin_s

    @property
    def reached(self) -> Cursor:
        return self.places[-1][1] if self.places else self.start

    def cut_short(self, now_s: float) -> None:
        """Leaves it at the first place after now where it may stop; one that has not begun yet, where it is."""
        may_stop = [i for i, (at_s, cursor) in enumerate(self.places) if at_s >= now_s and self._is_allowed(cursor)]
        if may_stop:
            del self.places[may_stop[0] + 1 :]

    def _is_allowed(self, cursor: Cursor) -> bool:
        return self.command.preempt_at is PreemptAt.EXPERT or cursor.stage is Stage.ATTENTION


class SimRows:
    """What each block holds; nobody clears a block, as nobody does on a device."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._rows: dict[tuple[int, int], int] = {}

    def read(self, block_ids: Iterable[int], num_rows: int) -> list[int]:
        """Returns the first rows of a table."""
        places = [(block, offset) for block in block_ids for offset in range(self._block_size)]
        return [self._rows[place] for place in places[:num_rows]]

    def write(self, block_ids: abc.Sequence[int], first: int, rows: Iterable[int]) -> None:
        """Writes rows of a table, from the first-th on."""
        for position, row in enumerate(rows, first):
            self._rows[block_ids[position // self._block_size], position % self._block_size] = row


class SimWorker:
    """Carries commands out in order, in virtual time, and refuses what breaks the contract."""

    def __init__(self, model: WorkerModel, costs: Costs) -> None:
        self.model, self.costs = model, costs
        self.blocks = BlockLedger(model.num_blocks, model.block_size, model.num_host_blocks, model.num_disk_blocks)
        self.checks_rows = False  # whether it keeps what blocks hold, which takes longer than all the rest
        self.rows = SimRows(model.block_size)
        self.told: dict[int, Sequence] = {}  # what the core knows of each sequence, which the rows must be of
        self.sequences: dict[int, SimSequence] = {}
        self.batches: dict[int, SimBatch] = {}
        limits = ModelLimits(model.experts_by_layer, VOCAB_SIZE, model.max_model_len)
        self.known = Known(limits, self.blocks, self.sequences, self.batches)
        self.queue: deque[Command] = deque()
        self.running: Running | None = None
        self.preempted_ids = range(0)
        self.free_at_s = 0.0
        self.scored: list[ScoredTokens] = []  # by the Advance that ended last
        self.sent: list[Advance] = []
        self.history: list[tuple[float, float, Advance, tuple[SimBatch, ...]]] = []

    def timing(self, shape: tuple[int, int, int, int], num_stages: int, num_runs: int, num_heads: int) -> WorkTiming:
        """Times stages, expert runs and heads of batches with this many (passes, tokens, pairs, rows) together."""
        passes, tokens, pairs, rows = shape
        a, e, h = self.costs.attention, self.costs.expert, self.costs.head
        run_tokens = round(num_runs * tokens * self.model.num_experts_per_token / max(1, self.num_experts))
        return WorkTiming(
            num_attention_stages=num_stages * passes,
            attention_tokens=num_stages * tokens,
            attention_pairs=num_stages * pairs,
            attention_ns=round(1e6 * num_stages * (a[0] * passes + a[1] * tokens + a[2] * pairs)),
            num_expert_runs=num_runs,
            expert_tokens=run_tokens,
            expert_ns=round(1e6 * (e[0] * num_runs + e[1] * run_tokens)),
            num_heads=num_heads * passes,
            head_rows=num_heads * rows,
            head_ns=round(1e6 * num_heads * (h[0] * passes + h[1] * rows)),
        )

    @property
    def num_experts(self) -> int:
        return max(self.model.experts_by_layer, default=0)

    @property
    def tables(self) -> dict[int, list[int]]:
        return {seq_id: list(self.blocks.held_by(seq_id)) for seq_id in self.sequences}

    @property
    def is_idle(self) -> bool:
        return self.running is None and not self.queue

    def calibration(self) -> list[WorkTiming]:
        shapes = [(1, 1, 1, 1), (1, 8, 8, 8), (1, 64, 4096, 1), (1, 256, 65536, 1), (1, 8, 4096, 8), (2, 16, 900, 16)]
        return [self.timing(shape, 1, self.num_experts, 1) for shape in shapes * 4]

    def receive(self, commands: Iterable[Command], now_s: float) -> None:
        """Takes commands in; all but Preempt wait their turn."""
        for command in commands:
            if isinstance(command, Preempt):
                self.preempted_ids = command.command_ids
                if self.running and self.running.command.preempt_at and self._is_preempted(self.running.command):
                    self.running.cut_short(now_s)
            else:
                self.queue.append(command)
                self.sent += [command] if isinstance(command, Advance) else []
        self.start_next(now_s)

    def start_next(self, now_s: float) -> None:
        """Carries out what waits, up to and including the start of the next Advance."""
        while self.running is None and self.queue:
            command = self.queue.popleft()
            if isinstance(command, Advance):
                self._start(command, now_s)
            else:
                self.apply(command)

    def complete(self) -> StepResult:
        """Ends the Advance that runs."""
        assert self.running is not None
        running, self.running = self.running, None
        reached = running.reached
        timing = self._walk(running.batches, running.start, reached)
        idle_ns = round(1e9 * (running.begin_s - self.free_at_s))
        self.free_at_s = running.ends_s
        self.history.append((running.begin_s, running.ends_s, running.command, running.batches))
        tokens = self.finish_advance(running.command, reached)
        duration_ns = timing.attention_ns + timing.expert_ns + timing.head_ns
        scored, self.scored = tuple(self.scored), []
        return StepResult(running.command.command_id, reached, duration_ns, idle_ns, tokens, (), timing, scored=scored)

    def finish_advance(self, command: Advance, reached: Cursor) -> tuple[SampledToken, ...]:
        """Moves the batches to where they stand now; returns the tokens of those that ended."""
        tokens: list[SampledToken] = []
        for batch_id in command.batch_ids:
            batch = self.batches[batch_id]
            batch.cursor = reached
            if reached == Cursor(self.model.num_layers):
                tokens += self._finish(batch)
                del self.batches[batch_id]
        return tuple(tokens)

    def apply(self, command: Command) -> None:
        """Carries out a command that takes no time."""
        match command:
            case AddSequence(seq_id=seq_id, sampling=sampling, stop=stop, shared_block_ids=shared_block_ids):
                limits = stop.stop_token_ids, stop.max_tokens
                check_add(self.known, WorkerAdd(seq_id, Sampling(), *limits, shared_block_ids=shared_block_ids))
                self.sequences[seq_id] = sequence = SimSequence(num_candidates=sampling.num_candidates)
                self.blocks.share(seq_id, shared_block_ids)
                sequence.num_cached = len(shared_block_ids) * self.model.block_size
                sequence.rows = self.true_rows(seq_id, sequence.num_cached)
                self.check_rows(seq_id)
            case ForkSequence(seq_id, parent_seq_id, new_block_ids):
                child, parent = check_fork(self.known, seq_id, parent_seq_id, new_block_ids)
                num_full = parent.num_cached // self.model.block_size
                self.blocks.share(seq_id, self.blocks.held_by(parent_seq_id)[:num_full])
                self.blocks.extend(seq_id, new_block_ids)
                child.num_cached, child.rows = parent.num_cached, [*parent.rows]
                first = num_full * self.model.block_size
                self.rows.write(self.blocks.held_by(seq_id), first, child.rows[first:])
                assert child.rows == self.true_rows(seq_id, len(child.rows)), "a fork of another text"
            case DropSequence(seq_id):
                if (batch_id := self.known.sequence(seq_id).batch_id) is not None:
                    self.batches[batch_id].dropped.add(seq_id)
                self.blocks.forget(seq_id)
                del self.sequences[seq_id]
            case OffloadSequence(seq_id, tier):
                assert self.blocks.held_by(seq_id) or seq_id in self.blocks.offloaded_seq_ids, "nothing to offload"
                self.check_rows(seq_id)
                self.blocks.offload(seq_id, WorkerTier[tier.name])
            case RestoreSequence(seq_id, block_ids, num_shared):
                check_restore(self.known, seq_id, block_ids, num_shared)
                self.blocks.restore(seq_id, block_ids, num_shared)
                first = num_shared * self.model.block_size
                self.rows.write(block_ids, first, self.sequences[seq_id].rows[first:])
                self.check_rows(seq_id)
            case StartBatch(batch_id, request_class, items):
                for sequence, item in zip(check_start(self.known, batch_id, items), items, strict=True):
                    self._begin(batch_id, sequence, item)
                self.batches[batch_id] = SimBatch({i.seq_id: i for i in items}, request_class)
            case DropBatch(batch_id):
                assert not self.known.batch(batch_id).live_seq_ids, (
                    "only a batch that lost all its sequences is dropped"
                )
                del self.batches[batch_id]
            case _:
                raise AssertionError(f"{command} is not known here")

    def true_rows(self, seq_id: int, num_rows: int) -> list[int]:
        """Returns what a sequence's first rows must be, by its own tokens: each depends on all tokens up to its own."""
        rows = list[int]()
        if not self.checks_rows:
            return rows
        sequence = self.told[seq_id]
        row = hash(sequence.salt)
        for token in sequence.token_ids(0, num_rows):
            rows.append(row := hash((row, token)))
        return rows

    def _begin(self, batch_id: int, sequence: SimSequence, item: BatchItem) -> None:
        self.blocks.extend(item.seq_id, item.new_block_ids)
        needed = -(-(item.first_position + item.num_tokens) // self.model.block_size)
        assert len(self.blocks.held_by(item.seq_id)) == needed, "a sequence gets more blocks than it needs"
        sequence.batch_id = batch_id
        self.check_rows(item.seq_id)

    def check_rows(self, seq_id: int) -> None:
        """Checks that a sequence's blocks still hold what it computed, or was given."""
        rows = self.sequences[seq_id].rows
        if seq_id not in self.blocks.offloaded_seq_ids:
            assert self.rows.read(self.blocks.held_by(seq_id), len(rows)) == rows, "a sequence's rows were overwritten"

    def _is_preempted(self, command: Advance) -> bool:
        return command.preempt_at is not None and command.command_id in self.preempted_ids

    def _start(self, command: Advance, now_s: float) -> None:
        layer, stage, expert = command.until
        batches = tuple(check_advance(self.known, command.batch_ids, WorkerCursor(layer, WorkerStage(stage), expert)))
        for batch in batches:
            assert self._is_preempted(command) or batch.cursor < command.until, "a step that does nothing"
        assert len({batch.cursor for batch in batches}) == 1, "batches are advanced where they stand together"
        begin_s = max(now_s, self.free_at_s)
        places = [] if self._is_preempted(command) else self._places(batches, command.until, begin_s)
        self.running = Running(command, batches, begin_s, batches[0].cursor, places)

    def _places(self, batches: tuple[SimBatch, ...], until: Cursor, at_s: float) -> list[tuple[float, Cursor]]:
        places, at = [], batches[0].cursor
        while at < until:
            following = self._next_place(at)
            timing = self._walk(batches, at, following)
            at_s += (timing.attention_ns + timing.expert_ns + timing.head_ns) * 1e-9
            at = following
            places.append((at_s, at))
        return places

    def _next_place(self, at: Cursor) -> Cursor:
        num_experts = self.model.experts_by_layer[at.layer]
        expert = 0 if at.stage is Stage.ATTENTION else at.expert + 1
        return Cursor(at.layer, Stage.EXPERTS, expert) if expert < num_experts else Cursor(at.layer + 1)

    def _finish(self, batch: SimBatch) -> list[SampledToken]:
        tokens = []
        for seq_id, item in batch.items.items():
            if seq_id in batch.dropped:
                continue
            sequence = self.sequences[seq_id]
            sequence.batch_id = None
            if item.scored_token_ids:
                self.scored.append(_scored(item))
            self._write(sequence, item)
            sequence.num_cached += item.num_tokens
            if item.samples:
                others = [one for one in item.also_sampled_ids if one in self.sequences]
                tokens += [self._sample(one, sequence.num_cached) for one in (seq_id, *others)]
        return tokens

    def _sample(self, seq_id: int, num_cached: int) -> SampledToken:
        """Samples what depends on the number of tokens alone."""
        sequence = self.sequences[seq_id]
        if sequence.num_candidates:
            places = range(sequence.num_candidates)
            candidates = tuple(Candidate((num_cached + i) % 97, -0.1 * (i + 1), -0.1 * (i + 1)) for i in places)
            return SampledToken(SeqId(seq_id), candidates[0].token_id, candidates[0].logprob, candidates=candidates)
        sequence.last_token = num_cached % 97
        return SampledToken(SeqId(seq_id), sequence.last_token, -0.5)

    def _write(self, sequence: SimSequence, item: BatchItem) -> None:
        """Writes rows as a model would: each depends on all tokens up to its own."""
        if not self.checks_rows:
            return
        first = item.first_position
        row = sequence.rows[-1] if sequence.rows else hash(self.told[item.seq_id].salt)
        for token in item.token_ids or (sequence.last_token,):
            sequence.rows.append(row := hash((row, token)))
        self.rows.write(self.blocks.held_by(item.seq_id), first, sequence.rows[first:])

    def _walk(self, batches: tuple[SimBatch, ...], start: Cursor, until: Cursor) -> WorkTiming:
        items = [i for batch in batches for i in batch.items.values() if i.seq_id not in batch.dropped]
        tokens = sum(i.num_tokens for i in items)
        pairs = sum(i.num_tokens * (i.first_position + i.num_tokens) for i in items)
        stages = runs = 0
        at = start
        while at < until:
            stages += at.stage is Stage.ATTENTION
            runs += at.stage is Stage.EXPERTS
            at = self._next_place(at)
        heads = int(start < until == Cursor(self.model.num_layers))
        shape = (len(batches), tokens, pairs, sum(i.samples for i in items))
        return self.timing(shape, stages, runs, heads)


def small_model(**changes: object) -> WorkerModel:
    fields: dict[str, object] = {
        "experts_by_layer": (8,) * 4,
        "num_experts_per_token": 8,  # every token goes to every expert, so that costs are known exactly
        "block_size": 16,
        "num_blocks": 4096,
        "num_host_blocks": 4096,
        "max_model_len": 4096,
    }
    return WorkerModel(**{**fields, **changes})  # type: ignore[arg-type]


class Simulation:
    """Arrivals in, outputs out, in virtual time."""

    def __init__(
        self,
        policy: str = "qllm",
        *,
        model: WorkerModel | None = None,
        costs: Costs | None = None,
        limits: Limits | None = None,
        preempt_at: PreemptAt = PreemptAt.EXPERT,
        starvation: StarvationLimits | None = None,
        calibrated: bool = True,
        observer: StepObserver | None = None,
        checks_rows: bool = False,
        sessions: Programs | None = None,
    ) -> None:
        self.model = model or small_model()
        limits = limits or Limits(control_lead_s=0.0)
        self.worker = SimWorker(self.model, costs or Costs())
        self.worker.checks_rows = checks_rows
        calibration = self.worker.calibration() if calibrated else ()
        self.scheduler = Scheduler(
            self.model, POLICIES[policy](), limits, preempt_at, starvation, observer, calibration, sessions
        )
        self.sequences: dict[int, Sequence] = {}
        self.outputs: dict[int, list[Output]] = {}
        self.token_times_s: dict[int, list[float]] = {}
        self.commands: list[Command] = []
        self.now_s = 0.0
        self.on_end: dict[int, Callable[[], object]] = {}
        self._ids = count(1)
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._ties = count()
        self._wakeups: set[float] = set()
        self._armed_s: float | None = None

    def at(self, time_s: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._events, (time_s, next(self._ties), action))

    def submit(
        self,
        request_class: RequestClass,
        prompt: int | tuple[int, ...],
        max_tokens: int,
        stop_token_ids: tuple[int, ...] = (),
        *,
        targets: Targets = NO_TARGETS,
        deadline_s: float | None = None,
        alike: int | None = None,
        session: SessionTurn | None = None,
        salt: bytes = b"",
        sampling: SamplingParams = GREEDY,
        beams: BeamParams | None = None,
    ) -> Sequence:
        """Queues a sequence now, with a prompt or the length of one; those that are alike by a number begin alike."""
        sequence = self.sequence(
            request_class,
            prompt,
            max_tokens,
            stop_token_ids,
            targets=targets,
            deadline_s=deadline_s,
            alike=alike,
            session=session,
            salt=salt,
            sampling=sampling,
        )
        if beams is not None:
            search_beams(sequence, beams, self.new_id)
        self.scheduler.add(sequence)
        return sequence

    def submit_choices(
        self,
        request_class: RequestClass,
        prompt: int | tuple[int, ...],
        samplings: abc.Sequence[SamplingParams],
        max_tokens: int,
        **more: Any,
    ) -> list[Sequence]:
        """Queues choices of one prompt now."""
        first = self.sequence(request_class, prompt, max_tokens, sampling=samplings[0], **more)
        others = [
            self.sequence(request_class, first.prompt_token_ids, max_tokens, sampling=sampling, **more)
            for sampling in samplings[1:]
        ]
        choices = [first, *others]
        share_prompt(choices)
        for sequence in choices:
            self.scheduler.add(sequence)
        return choices

    def new_id(self) -> SeqId:
        return SeqId(next(self._ids))

    def sequence(
        self,
        request_class: RequestClass,
        prompt: int | tuple[int, ...],
        max_tokens: int,
        stop_token_ids: tuple[int, ...] = (),
        *,
        targets: Targets = NO_TARGETS,
        deadline_s: float | None = None,
        alike: int | None = None,
        session: SessionTurn | None = None,
        salt: bytes = b"",
        sampling: SamplingParams = GREEDY,
    ) -> Sequence:
        """Makes a sequence that arrives now."""
        seq_id = SeqId(next(self._ids))
        if isinstance(prompt, int):
            kind = seq_id * 31 if alike is None else -alike
            prompt = tuple((kind * 97 + i * 7) % 9973 for i in range(prompt))
        stop = StopConditions(max_tokens, 0, stop_token_ids)
        sequence = Sequence(
            seq_id,
            request_class,
            prompt,
            sampling,
            stop,
            self.now_s,
            targets=targets,
            deadline_s=deadline_s,
            session=session,
            salt=salt,
        )
        self.sequences[seq_id] = self.worker.told[seq_id] = sequence
        self.outputs[seq_id] = []
        self.token_times_s[seq_id] = []
        return sequence

    def submit_at(self, time_s: float, request_class: RequestClass, num_prompt: int, max_tokens: int) -> None:
        self.at(time_s, lambda: self.submit(request_class, num_prompt, max_tokens))

    def run(self, until_s: float = float("inf")) -> None:
        """Goes on until nothing happens any more, or `until_s`."""
        self._pump()
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._events)
            action()
            self._pump()

    def _pump(self) -> None:
        self.worker.told.update({one.seq_id: one for one in self.scheduler.sequences})  # branches too
        commands = self.scheduler.schedule(self.now_s)
        self.commands += commands
        self.worker.receive(commands, self.now_s)
        if self.worker.running and self.worker.running.ends_s != self._armed_s:
            self._armed_s = self.worker.running.ends_s
            self.at(self._armed_s, self._worker_event)
        wakeup_s = self.scheduler.wakeup_s
        if wakeup_s is not None and wakeup_s not in self._wakeups:  # an event does nothing: the pump behind it does
            self._wakeups = {wakeup_s} | {w for w in self._wakeups if w > self.now_s}
            self.at(max(wakeup_s, self.now_s), lambda: None)

    def _worker_event(self) -> None:
        if self.worker.running is None or self.worker.running.ends_s > self.now_s:
            return  # it was cut short, and this event is stale
        result = self.worker.complete()
        self._armed_s = None
        self.worker.start_next(self.now_s)
        for output in self.scheduler.update(result, self.now_s):
            self.outputs[output.seq_id].append(output)
            if isinstance(output, TokenOutput):
                self.token_times_s[output.seq_id].append(self.now_s)
                if output.finish_reason is not None and output.seq_id in self.on_end:
                    self.on_end.pop(output.seq_id)()

    def hypotheses(self, seq_id: int) -> tuple[Hypothesis, ...]:
        """Returns what a beam search found, which must be all that came of it."""
        (output,) = self.outputs[seq_id]
        assert isinstance(output, HypothesesOutput), output
        return output.hypotheses

    # ---- what to check

    def tokens(self, seq_id: int) -> list[int]:
        return [o.token_id for o in self.outputs[seq_id] if isinstance(o, TokenOutput)]

    def scores(self, seq_id: int) -> list[PromptScores]:
        return [o.scores for o in self.outputs[seq_id] if isinstance(o, PromptOutput) and o.scores]

    def expected_tokens(self, sequence: Sequence) -> list[int]:
        start = len(sequence.prompt_token_ids)
        return [(start + i) % 97 for i in range(sequence.stop.max_tokens)]

    def check_integrity(self) -> None:
        """Checks that the pool agrees with every live sequence's table, and with the worker's."""
        live = self.scheduler.sequences
        self.scheduler.check_integrity()
        if self.worker.is_idle:
            self.worker.blocks.check_integrity()
        if self.worker.is_idle:
            kept = [each.sequence for each in self.scheduler.sessions.victims()]
            tables = {s.seq_id: s.block_ids for s in (*live, *kept) if s.known_to_worker}
            assert self.worker.tables == tables

    def check_goes_on(self) -> None:
        """Checks that whoever waits has something to wait for: the worker's answer, or a time."""
        waits = self.scheduler.sequences and self.worker.is_idle
        assert not waits or self.scheduler.wakeup_s is not None, "sequences wait, and nothing will ever happen"

    def be_wait_s(self, sequence: Sequence) -> float:
        """Seconds of purely best-effort work between a sequence's arrival and the first step that runs it."""
        waited_s = 0.0
        for begin_s, end_s, _, batches in self.worker.history:
            if any(sequence.seq_id in batch.items for batch in batches):
                return waited_s
            if end_s > sequence.arrival_s and all(batch.request_class is BE for batch in batches):
                waited_s += end_s - max(begin_s, sequence.arrival_s)
        return waited_s


def _scored(item: BatchItem) -> ScoredTokens:
    """Scores a prompt's tokens, each by its place and by itself."""
    first, tokens = item.first_position + 1, item.scored_token_ids
    logprobs = [-(position + token_id / 1e4) for position, token_id in enumerate(tokens, first)]
    return ScoredTokens(item.seq_id, PromptScores(first, tokens, logprobs, [1] * len(tokens)))
