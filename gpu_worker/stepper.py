"""Advances batches unit by unit, jointly where they stand together: the worker's inner loop.

A unit is one attention stage of one batch, or one expert of a layer over the tokens of all batches that stand before it. It knows
cursors, passes and clocks; it takes no commands and keeps nothing between calls.

Source: arXiv 2503.09304
"""

import time
from collections.abc import Callable, Sequence

from torch import Tensor

from gpu_worker.cursor import Cursor, Stage
from gpu_worker.experts import ExpertWeights, run_jointly
from gpu_worker.sampler import sample
from gpu_worker.sequences import Batch, SampledToken, WorkTiming


class Step:
    """One advance: what it ran, what came out and what failed.

    Args:
        batches: The batches to advance.
        until: Where they stop.
        weights_by_layer: Experts of each layer, None for a layer without a mixture.
        goes_on: Asked with the cursor before each unit; False cuts the advance short there.

    Attributes:
        timing: What was run.
        tokens: Tokens sampled by batches whose iteration ended.
        finished: Batches whose iteration ended.
        failures: Batches that failed, with what was raised.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        until: Cursor,
        weights_by_layer: Sequence[ExpertWeights | None],
        goes_on: Callable[[Cursor], bool],
    ) -> None:
        self._batches = list(batches)
        self._until = until
        self._weights_by_layer = weights_by_layer
        self._goes_on = goes_on
        self._end = Cursor(len(weights_by_layer))
        self.timing = WorkTiming()
        self.tokens: list[SampledToken] = []
        self.finished: list[Batch] = []
        self.failures: list[tuple[Batch, Exception]] = []

    def run(self) -> Cursor:
        """Runs until every batch stands at or past `until`, has ended or has failed, or until told not to go on.

        Returns the lowest cursor.
        """
        while behind := [batch for batch in self._batches if batch.cursor < self._until]:
            cursor = min(batch.cursor for batch in behind)
            if not self._goes_on(cursor):
                break
            standing = [batch for batch in behind if batch.cursor == cursor]
            if cursor.stage is Stage.EXPERTS:
                self._run_expert(standing, cursor)
            else:
                for batch in standing:
                    self._run_attention(batch, cursor.layer)
        # Passes that were closed, because all their sequences were dropped, are over without having run to the end.
        self.finished += [b for b in self._batches if self._until >= self._end and b.forward_pass.is_closed]
        return min((batch.cursor for batch in self._batches), default=self._until)

    def _run_attention(self, batch: Batch, layer: int) -> None:
        """Runs the attention stage of one batch; all of the layer if it has no mixture."""
        spans = [member.span for member in batch.live_members]
        self.timing.num_attention_stages += 1
        self.timing.attention_tokens += sum(span.num_tokens for span in spans)
        self.timing.attention_pairs += sum(span.num_tokens * span.length for span in spans)
        self.timing.attention_ns += self._resume(batch, batch.forward_pass.run_attention)

    def _run_expert(self, standing: Sequence[Batch], cursor: Cursor) -> None:
        """Runs one expert over the tokens of all batches that stand before it; whoever needs no more goes to the next layer."""
        began = time.perf_counter_ns()
        weights = self._weights_by_layer[cursor.layer]
        ready = [batch for batch in standing if not batch.forward_pass.expert_queues.is_done]
        if weights is not None and ready:
            self._run_together(weights, ready, cursor.expert)
        self.timing.expert_ns += time.perf_counter_ns() - began
        # Told to stop inside the stage, a pass waits at its end rather than run into the next layer, or even sample.
        leaving = standing if self._until.layer > cursor.layer else ()
        for batch in leaving:
            if batch in self._batches and batch.forward_pass.expert_queues.is_done:
                self.timing.expert_ns += self._resume(batch, batch.forward_pass.deliver)

    def _run_together(self, weights: ExpertWeights, batches: Sequence[Batch], expert: int) -> None:
        """Runs one expert for several batches at once; if that raises, one by one, so that only those fail that must."""
        try:
            num_tokens = run_jointly(weights, [batch.forward_pass.expert_queues for batch in batches], expert)
        except Exception as error:
            if len(batches) == 1:
                self._fail(batches[0], error)
                return
            for batch in batches:
                self._run_together(weights, [batch], expert)
        else:
            self.timing.num_expert_runs += 1
            self.timing.expert_tokens += num_tokens
            for batch in batches:
                batch.forward_pass.note_expert_run()

    def _resume(self, batch: Batch, resume: Callable[[], None]) -> int:
        """Runs a pass on, and samples if that ended the iteration. Returns the nanoseconds spent in the layer."""
        began = time.perf_counter_ns()
        forward_pass = batch.forward_pass
        try:
            resume()
            if forward_pass.logits is None:
                return time.perf_counter_ns() - began
            self._sample(batch, forward_pass.logits)
        except Exception as error:  # whatever the model raises is this batch's failure, and no other's
            self._fail(batch, error)
            return time.perf_counter_ns() - began
        self.timing.head_ns += time.perf_counter_ns() - forward_pass.layers_done_ns
        return forward_pass.layers_done_ns - began

    def _sample(self, batch: Batch, logits: Tensor) -> None:
        """Samples a token for each sequence that wants one, from logits (rows, V)."""
        sampling = [member for member in batch.members if member.samples]
        live = [(row, member.stream) for row, member in enumerate(sampling) if not member.span.dropped]
        if live:
            rows = logits[[row for row, _ in live]]  # (live rows, V)
            choices = sample(rows, [stream.next_draw() for _, stream in live])
            self.tokens += [stream.accept(*choice) for (_, stream), choice in zip(live, choices, strict=True)]
        self.timing.num_heads += 1
        self.timing.head_rows += len(logits)
        self.finished.append(batch)

    def _fail(self, batch: Batch, error: Exception) -> None:
        self._batches.remove(batch)
        self.failures.append((batch, error))
