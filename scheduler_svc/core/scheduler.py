"""Decides what the worker runs next, how far, and with whom; turns what it reports into tokens.

    schedule(now_s) -> commands -> worker -> result -> update(result, now_s) -> outputs

Owns every live sequence and batch. Pure: no I/O and no clock. What to prefer is the policy's, how far a step goes is the
planner's, who gets memory is the composer's. Source: arXiv 2503.09304, sections 3 and 4.
"""

from collections.abc import Iterable
from functools import partial
from itertools import count

from scheduler_svc.core.composer import Composer
from scheduler_svc.core.counters import Counters
from scheduler_svc.core.memory import Memory
from scheduler_svc.core.observer import StepObserver
from scheduler_svc.core.planner import Reach, StepPlanner
from scheduler_svc.core.policies import Limits, Policy, Sequel
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.batch import Batch, Member, Shape
from scheduler_svc.core.state.commands import AddSequence, Advance, BatchItem, Command, DropBatch, Preempt, StartBatch
from scheduler_svc.core.state.cursor import START, Cursor, PreemptAt, Stage
from scheduler_svc.core.state.ids import BatchId, CommandId, SeqId
from scheduler_svc.core.state.results import (
    FailureOutput,
    Output,
    SampledToken,
    SequenceError,
    StepResult,
    TokenOutput,
    WorkerModel,
    WorkTiming,
)
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, Sequence, SequenceState
from scheduler_svc.core.window import CommandWindow, InFlight
from scheduler_svc.core.workload import Workload

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
MAX_COMMANDS_IN_FLIGHT = 64
MIN_WAKEUP_S = 1e-4  # so that a rounding error does not make the caller spin
_ROUNDING_S = 1e-6


class Scheduler:
    """The scheduler of one life of one worker."""

    def __init__(
        self,
        model: WorkerModel,
        policy: Policy,
        limits: Limits | None = None,
        preempt_at: PreemptAt = PreemptAt.EXPERT,
        starvation: StarvationLimits | None = None,
        observer: StepObserver | None = None,
        calibration: Iterable[WorkTiming] = (),
    ) -> None:
        self.model = model
        self._observer = observer
        preempt_at = policy.preempt_at or preempt_at
        self._preempt_at = None if preempt_at is PreemptAt.ITERATION else preempt_at
        self.limits = limits or Limits()
        self.counters = Counters()
        self.work = Workload(model, self.limits, preempt_at, starvation or StarvationLimits(), policy.queue_key)
        self.memory = Memory(model, lambda command: self._outbox.append(command))
        self.window = CommandWindow()
        for timing in calibration:
            self.work.cost_model.observe(timing)
        self._policy = policy
        self._planner = StepPlanner(model.experts_by_layer, preempt_at)
        self._composer = Composer(self.work.queues, self.memory, self.work.has_slack)
        self._sequences: dict[SeqId, Sequence] = {}
        self._last_run: tuple[Batch, ...] = ()
        self._outbox: list[Command] = []
        self._batch_ids = count(1)
        self._command_ids = count(1)
        self._wakeup_s: float | None = None
        self._is_quiet = True

    # ---- sequences come and go

    def add(self, sequence: Sequence) -> None:
        """Queues a new sequence, whose prompt and output together fit the device's blocks."""
        sequence.effective_class = self._policy.queue_class(sequence)
        self._sequences[sequence.seq_id] = sequence
        self.work.queues.of(sequence).push(sequence)

    def abort(self, seq_id: SeqId, now_s: float) -> Sequence | None:
        """Ends a live sequence at once and gives up its memory; returns it, or None if it is not live."""
        sequence = self._sequences.get(seq_id)
        if sequence is None:
            return None
        if sequence.state is SequenceState.IN_BATCH:
            self._preempt(now_s)  # the worker drops it at the next boundary, not after all that it was sent
        self._end_early(sequence)
        return sequence

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """The live sequences."""
        return tuple(self._sequences.values())

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches under way."""
        return tuple(self.work.batches)

    # ---- what to run

    def schedule(self, now_s: float) -> list[Command]:
        """Returns the commands to send now, in order; empty when the worker has enough to do or nothing waits."""
        self._wakeup_s = None
        while len(self.window) < MAX_COMMANDS_IN_FLIGHT:
            batch = self._choose(now_s)
            if batch is None:
                self._is_quiet = self._is_quiet or not self.window
                break
            if batch.request_class is LS:
                self._preempt(now_s)
            reach = self._reach(batch, now_s)
            if reach is None:
                break
            self._advance(batch, reach, now_s)
        commands, self._outbox = self._outbox, []
        return commands

    @property
    def wakeup_s(self) -> float | None:
        """When to call `schedule` again if nothing else happens before: work is held back until the window has room."""
        return self._wakeup_s

    def _choose(self, now_s: float) -> Batch | None:
        """Returns the batch that the policy prefers among those that can run, forming it if it is new."""
        for choice in self._policy.preferences(self.work):
            if isinstance(choice, Batch):
                if self._composer.make_resident(choice):
                    return choice
            elif isinstance(choice, Sequel):
                if batch := self._form_sequel(choice, now_s):
                    return batch
            elif members := self._composer.compose(choice):
                return self._form(members)
        return None

    def _form_sequel(self, sequel: Sequel, now_s: float) -> Batch | None:
        """Begins the next iteration of the class's only batch shortly before that one ends, so that no time is lost between."""
        mine = self.work.of_class(sequel.request_class)
        if len(mine) != 1 or not mine[0].is_issued or mine[0].is_preempted or not self.limits.control_lead_s:
            return None
        ahead_s = self.limits.control_lead_s + sequel.margin * self.work.iteration_s(mine[0].shape)
        early_s = self.window.outstanding_s(now_s) - ahead_s
        if early_s > _ROUNDING_S:  # whoever arrives until then takes part
            self._wait(now_s, early_s)
            return None
        members = self._composer.compose_sequel(mine[0], sequel.plan())
        if not members:
            return None
        mine[0].sequel = self._form(members)
        return mine[0].sequel

    def _form(self, members: list[Member]) -> Batch:
        is_ls = any(member.sequence.effective_class is LS for member in members)
        batch = Batch(BatchId(next(self._batch_ids)), LS if is_ls else BE, members, self._planner.end)
        self.work.batches.append(batch)
        self._announce(batch)
        return batch

    def _announce(self, batch: Batch) -> None:
        """Tells the worker of a batch, and of those of its members that it does not know."""
        for sequence in (member.sequence for member in batch.members):
            if not sequence.known_to_worker:
                num_outputs = len(sequence.output_token_ids)
                self._outbox.append(AddSequence(sequence.seq_id, sequence.sampling, sequence.stop, num_outputs))
                sequence.known_to_worker = True
        items = tuple(map(self._item, batch.members))
        self._outbox.append(StartBatch(batch.batch_id, batch.request_class, items))

    @staticmethod
    def _item(member: Member) -> BatchItem:
        sequence, num_tokens, start, samples, new_block_ids = member
        token_ids = sequence.token_ids(start, start + num_tokens)  # in a sequel empty: it is being sampled
        return BatchItem(sequence.seq_id, num_tokens, token_ids, start, new_block_ids, samples)

    def _reach(self, batch: Batch, now_s: float) -> Reach | None:
        """Returns how far the batch's next step goes; None if the window is full, and then notes when it will not be.

        What may be outstanding is the policy's window, or one unit and the lead where that is longer. A step is worth a command
        from one unit on, and from half the window on where units are shorter.
        """
        if not self.work.cost_model.is_ready:  # of times nothing is known yet: one unit runs, one is ready
            return self._planner.one_unit if len(self.window) < 2 else None
        policy_s = self._policy.window_s(self.work, batch)
        if policy_s is None:
            return self._planner.rest
        limits = self.limits
        outstanding_s = self.window.outstanding_s(now_s)
        _, unit_s = self._planner.one_unit(self.work.cost_model.unit_costs(batch.shape), batch.issued)
        window_s = max(policy_s, unit_s + limits.control_lead_s)
        window_s += limits.preemption_quantum_s if batch.request_class is LS else 0.0
        refill_s = window_s - max(unit_s, policy_s / 2)
        if outstanding_s <= refill_s + _ROUNDING_S:
            return partial(self._planner.within, room_s=window_s - outstanding_s)
        self._wait(now_s, outstanding_s - refill_s)
        return None

    def _wait(self, now_s: float, delay_s: float) -> None:
        """Notes when to be asked again; while the running command is overdue its answer is all there is to wait for."""
        if not self.window.is_overdue(now_s):
            self._wakeup_s = now_s + max(delay_s, MIN_WAKEUP_S)

    def _advance(self, batch: Batch, reach: Reach, now_s: float) -> None:
        """Sends one step of the batch, with the companions that stand where it stands."""
        companions = tuple(self._policy.companions(self.work, batch))
        together = tuple(other for other in companions if other.issued == batch.issued)
        meeting = min((other.issued for other in companions if other.issued > batch.issued), default=None)
        batches = (batch, *together)
        shape = sum((other.shape for other in together), batch.shape)
        costs = self.work.cost_model.unit_costs(shape)
        until, estimate_s = reach(costs, batch.issued, end=meeting)
        for each in batches:
            each.issued = until
        self._send(batches, shape, until, estimate_s, now_s)

    def _send(self, batches: tuple[Batch, ...], shape: Shape, until: Cursor, estimate_s: float, now_s: float) -> None:
        lead = batches[0].request_class
        preempt_at = None if lead is LS or self.work.has_latency_sensitive else self._preempt_at
        command = Advance(CommandId(next(self._command_ids)), tuple(b.batch_id for b in batches), until, preempt_at)
        be_fraction = sum(b.num_be_tokens for b in batches) / shape.num_tokens if shape.num_tokens else 0.0
        charged_s = estimate_s * be_fraction
        self.work.guard.spend(charged_s)
        entry = InFlight(command, batches, estimate_s, now_s, charged_s, be_fraction, self._is_quiet)
        self.window.send(entry)
        for batch in batches:
            batch.num_in_flight += 1
        self._is_quiet = False
        self.counters.num_joins += len(batches) > 1
        self._outbox.append(command)

    def _preempt(self, now_s: float) -> None:
        """Has the worker stop best-effort work at the next boundary; where its batch stands is known with the answers."""
        if not self.window.may_be_preempted:
            return
        cut_short = self.window.preempt(now_s, max(map(self._longest_unit_s, self.work.batches), default=0.0))
        for entry in cut_short:
            entry.batches[0].is_preempted = True
        # It overtakes what was sent before it anyway.
        self._outbox.insert(0, Preempt(cut_short[0].command.command_id, cut_short[-1].command.command_id))

    def _settle(self, batch: Batch, reached: Cursor) -> None:
        """Takes in where a batch that was cut short stands; once all its steps are answered it can go on from there."""
        batch.issued = reached
        if batch.num_in_flight == 0:
            batch.is_preempted = False
            self._drop_if_empty(batch)

    def _note_first_run(self, batch: Batch, began_s: float) -> None:
        """Notes when work on its sequences began; by the worker's clock, which may be off by a rounding."""
        for sequence in (member.sequence for member in batch.members):
            if sequence.first_run_s is None:
                sequence.first_run_s = max(began_s, sequence.arrival_s)

    # ---- what came of it

    def update(self, result: StepResult, now_s: float) -> list[Output]:
        """Takes in what a step did; returns tokens and failures for the callers. Results of unknown steps change nothing."""
        entry = self.window.answer(result.command_id, now_s)
        if entry is None:
            return []
        self._note_preemptions(entry.batches, result.reached)
        self._record(entry, result, now_s)
        outputs: list[Output] = []
        for error in result.batch_errors:
            outputs += self._fail(error.batch_id, error.message)
        outputs += self._fail_sequences(result.sequence_errors)
        tokens = {token.seq_id: token for token in result.tokens}
        for batch in entry.batches:
            batch.num_in_flight -= 1
            stands_at = result.reached if batch.is_preempted else entry.command.until
            if stands_at > START:
                self._note_first_run(batch, now_s - result.duration_ns * 1e-9)
            if batch.is_preempted:
                self._settle(batch, stands_at)
            if stands_at >= batch.end and batch in self.work.batches:
                outputs += self._end_iteration(batch, tokens, now_s)
        return outputs

    def refuse(self, command_id: CommandId, message: str, now_s: float) -> list[Output]:
        """Takes in that the worker refused a step; returns the failures of the sequences in its batches."""
        entry = self.window.answer(command_id, now_s)
        if entry is None:
            return []
        self.work.guard.settle(entry.charged_s)
        outputs: list[Output] = []
        for batch in entry.batches:
            batch.num_in_flight -= 1
            outputs += self._fail(batch.batch_id, message)
        return outputs

    def _record(self, entry: InFlight, result: StepResult, now_s: float) -> None:
        counters = self.counters
        counters.num_commands += 1
        counters.busy_ns += result.duration_ns
        be_ns = round(result.duration_ns * entry.be_fraction)
        counters.classes[BE].busy_ns += be_ns
        counters.classes[LS].busy_ns += result.duration_ns - be_ns
        if not entry.after_quiet:
            counters.control_idle_ns += result.idle_ns
        self.work.cost_model.observe(result.timing)
        self.work.guard.settle(entry.charged_s)
        be_waits, ls_leads = self.work.has_best_effort, entry.batches[0].request_class is LS
        self.work.guard.record(
            now_s, result.duration_ns * 1e-9, entry.be_fraction, be_waits=be_waits, ls_leads=ls_leads
        )
        if self._observer is not None:
            self._observer.step_answered(entry, result, now_s)

    def _note_preemptions(self, batches: tuple[Batch, ...], reached: Cursor) -> None:
        """Notes the batches that ran last and are left standing inside their iteration while these go on."""
        if batches[0].reached == reached:
            return  # a step that was cut short before it began: whoever stood goes on standing
        for batch in self._last_run:
            if batch not in batches and batch in self.work.batches:
                self._count_preemption(batch)
                if self._observer is not None:
                    self._observer.batch_preempted(batch, batches)
        for batch in batches:
            batch.reached = reached
        self._last_run = batches

    def _count_preemption(self, batch: Batch) -> None:
        if batch.reached.stage is Stage.ATTENTION:
            self.counters.num_preemptions_at_layer += 1
        else:
            self.counters.num_preemptions_at_expert += 1
        for member in batch.members:
            member.sequence.num_preemptions += 1

    def _end_iteration(self, batch: Batch, tokens: dict[SeqId, SampledToken], now_s: float) -> list[Output]:
        """Puts the members back into their queues, each with its new token, or ends them."""
        self.work.batches.remove(batch)
        self.counters.num_iterations += 1
        self.work.guard.iteration_finished(be_waits=batch.request_class is LS and self.work.has_best_effort)
        outputs: list[Output] = []
        for member in batch.members:
            sequence = member.sequence
            sequence.num_computed_tokens += member.num_tokens
            if not sequence.output_token_ids:
                self.counters.classes[sequence.request_class].num_prompt_tokens += member.num_tokens
            token = tokens.get(sequence.seq_id) if member.samples else None
            if token is not None:
                outputs.append(self._append(sequence, token, now_s))
            if sequence.state is SequenceState.FINISHED:
                self._leave_batch(sequence)
            elif not batch.sequel or not batch.sequel.holds(sequence):
                sequence.state = SequenceState.QUEUED
                self.work.queues.of(sequence).push(sequence)
        return outputs

    def _append(self, sequence: Sequence, token: SampledToken, now_s: float) -> TokenOutput:
        sequence.append(token.token_id, now_s)
        self.counters.classes[sequence.request_class].num_generated_tokens += 1
        reason = token.finish_reason
        if reason is None and len(sequence.output_token_ids) >= sequence.stop.max_tokens:
            reason = FinishReason.LENGTH
        if reason is None:
            return TokenOutput(sequence.seq_id, token.token_id, token.logprob)
        self._finish(sequence)
        return TokenOutput(sequence.seq_id, token.token_id, token.logprob, reason, sequence.usage(now_s))

    def _fail(self, batch_id: BatchId, message: str) -> list[Output]:
        failed = next((batch for batch in self.work.batches if batch.batch_id == batch_id), None)
        if failed is None:
            return []
        self.work.batches.remove(failed)
        self._outbox.append(DropBatch(batch_id))
        for member in failed.members:
            self._finish(member.sequence)
            self._leave_batch(member.sequence)
        return [FailureOutput(member.sequence.seq_id, message) for member in failed.members]

    def _fail_sequences(self, errors: tuple[SequenceError, ...]) -> list[Output]:
        """Ends the sequences that the worker left out; their batches go on without them."""
        outputs: list[Output] = []
        for error in errors:
            sequence = self._sequences.get(error.seq_id)
            if sequence is not None:
                self._end_early(sequence)
                outputs.append(FailureOutput(error.seq_id, error.message))
        return outputs

    def _end_early(self, sequence: Sequence) -> None:
        """Takes a sequence out of wherever it is, and gives up its memory."""
        if sequence.state is SequenceState.QUEUED:
            self.work.queues.of(sequence).remove(sequence)
        self._finish(sequence)
        self._leave_batch(sequence)

    def _finish(self, sequence: Sequence) -> None:
        sequence.state = SequenceState.FINISHED
        self._composer.forget(sequence)
        del self._sequences[sequence.seq_id]
        self.counters.classes[sequence.request_class].num_finished += 1

    def _leave_batch(self, sequence: Sequence) -> None:
        """Takes an ended sequence out of its batch; a batch left empty is dropped unless its end has been sent already."""
        for batch in [b for b in self.work.batches if b.holds(sequence)]:
            batch.remove(sequence)
            self._drop_if_empty(batch)

    def _drop_if_empty(self, batch: Batch) -> None:
        if not batch.members and not batch.is_issued and batch in self.work.batches:
            self.work.batches.remove(batch)
            self._outbox.append(DropBatch(batch.batch_id))

    @property
    def wait_bound_s(self) -> float:
        """Bound on the running best-effort work that an arrival waits for: the quantum, or what can't be left and the lead.

        That is one unit, or the end of an iteration whose sequel has begun.
        """
        batches = self.work.of_class(BE)
        margin = self._policy.best_effort_margin(self.work) or 0.0
        ends_s = [margin * self.work.iteration_s(batch.shape) for batch in batches]
        longest_s = max([*map(self._longest_unit_s, batches), *ends_s], default=0.0)
        return max(self.limits.preemption_quantum_s, longest_s + self.limits.control_lead_s)

    def _longest_unit_s(self, batch: Batch) -> float:
        return self._planner.longest_unit_s(self.work.cost_model.unit_costs(batch.shape))
