"""Advances batches of a model that is not there, unit by unit, jointly where they stand together, in a table's time.

Stops where the real stepper stops. Knows cursors, costs and a clock; it takes no commands
and keeps nothing between calls.
"""

import time
from collections.abc import Callable, Sequence

from qllm.cost_table import CostTable

from gpu_worker.contract.executor import GoesOn
from gpu_worker.contract.results import WorkTiming
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.simulated.batch import Routing, SimulatedBatch

_SHORTEST_SLEEP_NS = 20_000  # below that, going to sleep takes longer than the sleep


class Pacer:
    """Makes work take its time: sleeps up to when it would be done, so that sleeping too long once is made up for."""

    def __init__(
        self, now_ns: Callable[[], int] = time.monotonic_ns, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._now_ns = now_ns
        self._sleep = sleep
        self._due_ns = 0

    def begin(self) -> None:
        """Work begins now."""
        self._due_ns = self._now_ns()

    def spend(self, cost_ns: int) -> None:
        """Comes back when the work so far and this much more would be done."""
        if not cost_ns:
            return
        self._due_ns += cost_ns
        left_ns = self._due_ns - self._now_ns()
        if left_ns > _SHORTEST_SLEEP_NS:
            self._sleep(left_ns * 1e-9)


class SimulatedStep:
    """One advance: what it ran, and which iterations ended.

    Args:
        costs: What work costs.
        routing: Which experts have work.
        batches: The batches to advance.
        until: Where they stop.
        goes_on: Asked with the cursor before each unit; False cuts the advance short there.
        pacer: Takes the time.

    Attributes:
        timing: What was run, and the time that the table says for it.
        finished: Batches whose iteration ended.
    """

    def __init__(
        self,
        costs: CostTable,
        routing: Routing,
        batches: Sequence[SimulatedBatch],
        until: Cursor,
        goes_on: GoesOn,
        pacer: Pacer,
    ) -> None:
        self._costs = costs
        self._routing = routing
        self._batches = batches
        self._until = until
        self._goes_on = goes_on
        self._pacer = pacer
        self.timing = WorkTiming()
        self.finished: list[SimulatedBatch] = []

    def run(self) -> Cursor:
        """Runs until every batch stands at or past `until`, or until told not to go on; returns the lowest cursor."""
        self._pacer.begin()
        if self._until >= self._routing.end:
            self.finished += [batch for batch in self._batches if not batch.parts]  # over without having run to the end
        while behind := [batch for batch in self._batches if batch.cursor < self._until]:
            cursor = min(batch.cursor for batch in behind)
            if not self._goes_on(cursor):
                break
            standing = [batch for batch in behind if batch.cursor == cursor]
            if cursor.stage is Stage.EXPERTS:
                self._run_expert(standing, cursor)
            elif self._costs.is_free and len(self._batches) == 1 and self._until.layer > cursor.layer:
                self._skip_layers(standing[0], self._until.layer)
            else:
                for batch in standing:
                    self._run_attention(batch)
        return min((batch.cursor for batch in self._batches), default=self._until)

    def _skip_layers(self, batch: SimulatedBatch, layer: int) -> None:
        """Goes to the beginning of a layer at once: no time passes on the way, so nothing could stop it there."""
        num_layers = layer - batch.cursor.layer
        self._count_attention(batch, num_layers)
        self.timing.num_expert_runs += num_layers * self._routing.num_runs(batch)
        self.timing.expert_tokens += num_layers * batch.num_tokens * self._routing.num_chosen
        self._arrive(batch, layer)

    def _run_attention(self, batch: SimulatedBatch) -> None:
        cost_ns = self._costs.attention_ns(batch.num_tokens, batch.num_pairs)
        self._count_attention(batch, 1)
        self.timing.attention_ns += cost_ns
        self._pacer.spend(cost_ns)
        batch.cursor = self._routing.next_with_tokens(batch, batch.cursor.layer, 0)

    def _count_attention(self, batch: SimulatedBatch, num_stages: int) -> None:
        self.timing.num_attention_stages += num_stages
        self.timing.attention_tokens += num_stages * batch.num_tokens
        self.timing.attention_pairs += num_stages * batch.num_pairs

    def _run_expert(self, standing: Sequence[SimulatedBatch], cursor: Cursor) -> None:
        """Runs one expert over the tokens of all batches that stand before it; those that need no more go on."""
        routing, (layer, _, expert) = self._routing, cursor
        if expert < routing.num_experts:
            num_tokens = sum(routing.num_tokens(batch, layer, expert) for batch in standing)
            cost_ns = self._costs.expert_ns(num_tokens)
            self.timing.num_expert_runs += 1
            self.timing.expert_tokens += num_tokens
            self.timing.expert_ns += cost_ns
            self._pacer.spend(cost_ns)
        for batch in standing:
            batch.cursor = routing.next_with_tokens(batch, layer, min(expert + 1, routing.num_experts))
            # Told to stop inside the stage, a batch waits at its end rather than run into
            # the next layer, or even sample.
            if batch.cursor.expert == routing.num_experts and self._until.layer > layer:
                self._arrive(batch, layer + 1)

    def _arrive(self, batch: SimulatedBatch, layer: int) -> None:
        """Stands before a layer; after the last one the iteration ends."""
        batch.cursor = Cursor(layer)
        if batch.cursor < self._routing.end:
            return
        cost_ns = self._costs.head_ns(batch.num_rows)
        self.timing.num_heads += 1
        self.timing.head_rows += batch.num_rows
        self.timing.head_ns += cost_ns
        self._pacer.spend(cost_ns)
        self.finished.append(batch)
