"""Sends batches on, step by step: how far each step goes, who goes along, and when the worker has enough to do.

Owns the window of what was sent and not answered. Whom to send on is decided elsewhere.
Source: arXiv 2503.09304, section 4.

    now ──▶│ running, as predicted │ next command │ ...  room  │
           │◀──── window: the policy's, or one unit and the lead ────▶│
"""

import math
from functools import partial
from itertools import count

from scheduler_svc.core.accounts import Accounts
from scheduler_svc.core.policies import Policy
from scheduler_svc.core.prediction.outlook import Moment
from scheduler_svc.core.prediction.planner import Reach
from scheduler_svc.core.state.batch import Batch, Shape
from scheduler_svc.core.state.commands import Advance, Command, Preempt
from scheduler_svc.core.state.cursor import Cursor, PreemptAt
from scheduler_svc.core.state.ids import CommandId
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.core.window import CommandWindow, InFlight
from scheduler_svc.core.workload import Workload

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
MAX_COMMANDS_IN_FLIGHT = 64
MIN_WAKEUP_S = 1e-4  # so that a rounding error does not make the caller spin
_ROUNDING_S = 1e-6


class Dispatcher:
    """Sends the steps of one life of one worker.

    Args:
        work: The batches under way, and what they cost.
        policy: Says how much may be outstanding, and who goes along.
        accounts: Is told of each step that is sent.
        outbox: Where commands to the worker go, in order.

    Attributes:
        window: What was sent and not answered.
        wakeup_s: When to ask again if nothing else happens before; None: there is nothing to wait for but an answer.
    """

    def __init__(self, work: Workload, policy: Policy, accounts: Accounts, outbox: list[Command]) -> None:
        self.window = CommandWindow()
        self.wakeup_s: float | None = None
        self._work = work
        self._limits = work.limits
        self._policy = policy
        self._planner = work.planner
        self._accounts = accounts
        self._outbox = outbox
        self._preempt_at = None if work.preempt_at is PreemptAt.ITERATION else work.preempt_at
        self._command_ids = count(1)
        self._is_quiet = True

    @property
    def has_place(self) -> bool:
        """Whether one more command may be in flight, however short those are."""
        return len(self.window) < MAX_COMMANDS_IN_FLIGHT

    def note_no_work(self) -> None:
        """Notes that nothing can be sent: if the worker has nothing to do either, its idle time is nobody's fault."""
        self._is_quiet = self._is_quiet or not self.window

    def moment(self, now_s: float) -> Moment:
        """Returns the time of a decision that is made now."""
        return Moment(now_s, now_s + self.window.outstanding_s(now_s), now_s + self.window.firm_s(now_s))

    # ---- steps out

    def advance(self, batch: Batch, now_s: float) -> bool:
        """Sends one step of the batch with companions that stand where it does; returns False if the window is full."""
        if not self.window.takes(batch):
            return False
        window_s = self._policy_window_s(batch)
        reach = self._reach(batch, window_s, now_s)
        if reach is None:
            return False
        companions = tuple(self._policy.companions(self._work, batch))
        together = tuple(other for other in companions if other.issued == batch.issued)
        # Whoever stands ahead is joined there: the step ends at that place, and the next one takes both along.
        meeting = min((other.issued for other in companions if other.issued > batch.issued), default=None)
        batches = (batch, *together)
        shape = _joint_shape(batches)
        until, estimate_s = reach(self._work.cost_model.unit_costs(shape), batch.issued, end=meeting)
        for each in batches:
            each.issued = until
        # What is sent whole carries best-effort work, and an arrival has it cut short. But an answer holds one cursor:
        # of batches that were cut short together it would not say where each stands.
        self._send(batches, shape, until, estimate_s, now_s, may_stop=window_s is None and len(batches) == 1)
        return True

    def pause(self, now_s: float, seconds: float) -> None:
        """Notes that there is nothing to send before that time has passed, whatever runs meanwhile."""
        self.wakeup_s = now_s + max(seconds, MIN_WAKEUP_S)

    def _reach(self, batch: Batch, policy_s: float | None, now_s: float) -> Reach | None:
        """Returns how far the batch's next step goes; None if the window is full, and then notes when it will not be.

        What may be outstanding is the policy's window, or one unit and the lead where that is longer. A step is worth a
        command from one unit on, and from half the window on where units are shorter.
        """
        costs = self._work.cost_model
        if not costs.is_ready:  # of times nothing is known yet: one unit runs, one is ready
            return self._planner.one_unit if len(self.window) < 2 else None
        if policy_s is None:
            return self._planner.rest
        _, unit_s = self._planner.one_unit(costs.unit_costs(batch.shape), batch.issued)
        # Where a unit is longer than the policy's window, the next one is sent the lead before the running one ends.
        window_s = max(policy_s, unit_s + self._limits.control_lead_s)
        # Best-effort work that the guard sent first takes none of the room of latency-sensitive work.
        window_s += self._limits.preemption_quantum_s if batch.request_class is LS else 0.0
        refill_s = window_s - max(unit_s, policy_s / 2)
        outstanding_s = self.window.outstanding_s(now_s)
        if outstanding_s <= refill_s + _ROUNDING_S:
            return partial(self._planner.within, room_s=window_s - outstanding_s)
        self._wait(now_s, outstanding_s - refill_s)
        return None

    def _policy_window_s(self, batch: Batch) -> float | None:
        window_s = self._policy.window_s(self._work, batch)
        if window_s is not None and not math.isfinite(window_s):
            raise ValueError(
                f"policy {self._policy.name}: its window_s is {window_s}; allowed are a finite number of seconds, and "
                "None for the rest of the iteration"
            )
        return window_s

    def _send(
        self,
        batches: tuple[Batch, ...],
        shape: Shape,
        until: Cursor,
        estimate_s: float,
        now_s: float,
        *,
        may_stop: bool,
    ) -> None:
        batch_ids = tuple(batch.batch_id for batch in batches)
        command = Advance(CommandId(next(self._command_ids)), batch_ids, until, self._preempt_at if may_stop else None)
        be_fraction = sum(b.num_be_tokens for b in batches) / shape.num_tokens if shape.num_tokens else 0.0
        step = InFlight(command, batches, estimate_s, now_s, estimate_s * be_fraction, be_fraction, self._is_quiet)
        self._accounts.step_sent(step)
        self.window.send(step)
        for batch in batches:
            batch.num_in_flight += 1
        self._is_quiet = False
        self._outbox.append(command)

    def preempt(self, now_s: float) -> None:
        """Has the worker stop what may be stopped at the next boundary; answers will tell where its batches stand."""
        if not self.window.may_be_preempted:
            return
        cut_short = self.window.preempt(now_s, max(map(self._longest_unit_s, self._work.batches), default=0.0))
        for step in cut_short:
            step.batches[0].is_preempted = True
        # It overtakes in the worker what was sent before it, so it goes ahead of what is about to be sent as well.
        self._outbox.insert(0, Preempt(cut_short[0].command.command_id, cut_short[-1].command.command_id))

    # ---- answers in

    def answered(self, command_id: CommandId, now_s: float) -> InFlight | None:
        """Takes the step that was answered out of the window; returns None if it is not the first one in flight."""
        step = self.window.answer(command_id, now_s)
        if step is not None:
            for batch in step.batches:
                batch.num_in_flight -= 1
        return step

    def settle(self, batch: Batch, reached: Cursor) -> bool:
        """Takes in where a batch cut short stands; returns whether it can go on, once all its steps are answered."""
        batch.issued = reached
        batch.is_preempted = batch.num_in_flight > 0
        return not batch.is_preempted

    # ---- when

    def is_near_end(self, batch: Batch, margin: float, now_s: float) -> bool:
        """Whether all that was sent ends so soon that the sequel of its last batch is due; if not, notes when it is.

        That is the lead before the predicted end, and `margin` iterations more. Whoever arrives until then takes part.
        """
        if not self._limits.control_lead_s:
            return False
        ahead_s = self._limits.control_lead_s + margin * self._work.iteration_s(batch.shape)
        early_s = self.window.outstanding_s(now_s) - ahead_s
        if early_s > _ROUNDING_S:
            self._wait(now_s, early_s)
            return False
        return True

    def _wait(self, now_s: float, delay_s: float) -> None:
        """Notes when to be asked again; while the running command is overdue its answer is all there is to wait for."""
        if not self.window.is_overdue(now_s):
            self.wakeup_s = now_s + max(delay_s, MIN_WAKEUP_S)

    @property
    def wait_bound_s(self) -> float:
        """Bound on the best-effort work that an arrival waits for: the quantum, or what can't be left and the lead.

        That is one unit, or the end of an iteration whose sequel has begun.
        """
        batches = [batch for batch in self._work.batches if batch.num_be_tokens]
        margin = self._policy.best_effort_margin(self._work) or 0.0
        ends_s = [margin * self._work.iteration_s(batch.shape) for batch in batches]
        longest_s = max([*map(self._longest_unit_s, batches), *ends_s], default=0.0)
        return max(self._limits.preemption_quantum_s, longest_s + self._limits.control_lead_s)

    @property
    def running_unit_s(self) -> float | None:
        """Predicts the longest unit of the step that runs; None if there is none, or of times nothing is known yet."""
        if self.window.head is None or not self._work.cost_model.is_ready:
            return None
        shape = _joint_shape(self.window.head.batches)
        return self._planner.longest_unit_s(self._work.cost_model.unit_costs(shape))

    def _longest_unit_s(self, batch: Batch) -> float:
        return self._planner.longest_unit_s(self._work.cost_model.unit_costs(batch.shape))


def _joint_shape(batches: tuple[Batch, ...]) -> Shape:
    """Returns what a step costs in which these go on together, of which there is one at least."""
    return sum((batch.shape for batch in batches[1:]), batches[0].shape)
