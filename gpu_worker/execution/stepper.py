"""Advances batches unit by unit, jointly where they stand together: the worker's inner loop.

A unit is one attention stage of one batch, or one expert of a layer over tokens of all batches that stand before it, as
many at once as a product gains by. Attention may be left inside too, between parts of about equal work. A batch of few
tokens may take a whole layer as one unit, where a device would otherwise wait for the host to learn who goes to which
expert. It knows cursors, passes and clocks; it takes no commands and keeps nothing between calls.

Source: arXiv 2503.09304, section 4 (stages, and work that joins inside a layer).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from gpu_worker.contract.results import SampledToken, ScoredTokens, SequenceError, WorkTiming
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.execution.sequences import Batch
from gpu_worker.experts.queues import ExpertWeights, ExpertWork, run_jointly
from gpu_worker.machine.clock import Clock, Stopwatch, Stretch
from gpu_worker.passes.forward import RunExperts
from gpu_worker.sampling.sampler import NOT_FINITE, NoChoice, sample
from gpu_worker.sampling.scoring import Scoring

_EXPERTS_ALONE = {"expert_ns": 1.0}
_HEAD_ALONE = {"head_ns": 1.0}


class Step:
    """One advance: what it ran, what came out and what failed.

    Args:
        batches: The batches to advance.
        until: Where they stop.
        weights_by_layer: Experts of each layer, None for a layer without a mixture.
        goes_on: Asked before each unit with its cursor, and inside attention stages with where they end;
            False cuts the advance short there.
        clock: Times the units.
        whole_up_to: Tokens of a batch up to which it takes a layer as one unit, unless it
            is to stop inside; 0 is never.
        vocab_size: Tokens of the vocabulary; no token is chosen beyond them.

    Attributes:
        timing: What was run; its times are there once it is over.
        tokens: Tokens sampled by batches whose iteration ended.
        scored: Tokens of prompts, scored by batches whose iteration ended.
        sequence_errors: Sequences whose token could not be sampled, or scored.
        finished: Batches whose iteration ended.
        failures: Batches that failed, with what was raised.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        until: Cursor,
        weights_by_layer: Sequence[ExpertWeights | None],
        goes_on: Callable[[Cursor], bool],
        clock: Clock,
        whole_up_to: float,
        vocab_size: int,
    ) -> None:
        self._batches = list(batches)
        self._until = until
        self._weights_by_layer = weights_by_layer
        self._goes_on = goes_on
        self._is_cut_short = False
        self._clock = clock
        self._stopwatch = Stopwatch(clock)
        self._whole_up_to = whole_up_to
        self._vocab_size = vocab_size
        self._end = Cursor(len(weights_by_layer))
        self.timing = WorkTiming()
        self.tokens: list[SampledToken] = []
        self.scored: list[ScoredTokens] = []
        self.sequence_errors: list[SequenceError] = []
        self.finished: list[Batch] = []
        self.failures: list[tuple[Batch, Exception]] = []

    def run(self) -> Cursor:
        """Runs until no batch can go on without passing `until`, all have ended or failed, or until told not to go on.

        Returns the lowest cursor.
        """
        while not self._is_cut_short and (behind := [batch for batch in self._batches if self._may_go_on(batch)]):
            self._clock.keep_pace()  # before asking: what comes in while it waits is heard
            # Whoever is behind catches up, so that batches meet before the same experts.
            cursor = min(batch.cursor for batch in behind)
            if not self._ask(cursor):
                break
            began = self._clock.mark()
            self._run_unit([batch for batch in behind if batch.cursor == cursor], cursor)
            self._clock.enqueued(began, self._clock.mark())
        for name, duration_ns in self._stopwatch.read().items():
            setattr(self.timing, name, duration_ns)
        # Passes that were closed, because all their sequences were dropped, are over without having run to the end.
        self.finished += [b for b in self._batches if self._until >= self._end and b.forward_pass.is_closed]
        return min((batch.cursor for batch in self._batches), default=self._until)

    def _ask(self, cursor: Cursor) -> bool:
        """Whether to go on; after the first no there is nothing more to ask."""
        self._is_cut_short = not self._goes_on(cursor)
        return not self._is_cut_short

    def _may_go_on(self, batch: Batch) -> bool:
        # What replays several layers can't stop among them, and does not begin them if it was to.
        return batch.cursor < self._until and batch.forward_pass.must_reach <= self._until

    def _run_unit(self, standing: Sequence[Batch], cursor: Cursor) -> None:
        """Runs what comes next for all batches that stand there."""
        if cursor.stage is Stage.EXPERTS:
            self._run_expert(standing, cursor)
        else:
            self._run_attention(standing[0])  # the others stay behind and come next, so that it is asked between them

    def _whole_layer(self, batch: Batch) -> RunExperts | None:
        """What runs the experts where a batch that is alone in a layer takes all of it as one unit; else None."""
        layer = batch.cursor.layer
        weights = self._weights_by_layer[layer]
        if weights is None or not weights.runs_whole or self._until.layer <= layer:
            return None
        # One that stands in the same layer is met at its experts, which then run once for both.
        if any(other.cursor.layer == layer for other in self._batches if other is not batch):
            return None
        num_tokens = sum(member.span.num_tokens for member in batch.live_members)
        return self._whole(weights) if num_tokens <= self._whole_up_to else None

    def _whole(self, weights: ExpertWeights) -> RunExperts:
        """What runs the experts of a layer within its attention stage, timed by itself."""

        def run(work: ExpertWork) -> Tensor:
            began = self._clock.mark()
            output = weights.run_whole(work)
            # All of the stage's time goes to attention when it ends; these experts' part of it moves over.
            self._stopwatch.share_out(Stretch({"attention_ns": -1, "expert_ns": 1}, began, self._clock.mark()))
            num_pairs = work.expert_ids.numel()
            # How many experts had any of them, only the device knows.
            self.timing.num_expert_runs += min(weights.num_experts, num_pairs)
            self.timing.expert_tokens += num_pairs
            return output

        return run

    def _run_attention(self, batch: Batch) -> None:
        """Runs one batch's attention stage or a part of it; all of the layer if it has no mixture or is taken whole."""
        cursor, forward_pass, unit = batch.cursor, batch.forward_pass, batch.forward_pass.next_unit
        spans = [member.span for member in batch.live_members]
        run_experts, inside = self._whole_layer(batch), Cursor(cursor.layer, Stage.EXPERTS)
        kinds = {"attention_ns": 1 - unit.expert_share, "expert_ns": unit.expert_share}
        stood_in_head = forward_pass.layers_done is not None
        self._resume(batch, kinds, lambda: forward_pass.run_attention(run_experts, lambda: self._ask(inside)))
        if stood_in_head or (batch.cursor == cursor and forward_pass.layers_done is None):
            return  # the stage counts once, where it ends
        self.timing.num_attention_stages += unit.num_layers
        self.timing.attention_tokens += unit.num_layers * sum(span.num_tokens for span in spans)
        self.timing.attention_pairs += unit.num_layers * sum(span.num_tokens * span.length for span in spans)
        self.timing.num_expert_runs += unit.num_expert_runs
        self.timing.expert_tokens += unit.expert_tokens

    def _run_expert(self, standing: Sequence[Batch], cursor: Cursor) -> None:
        """Runs one expert over the tokens of all batches that stand before it; those that need no more go on."""
        began = self._clock.mark()
        weights = self._weights_by_layer[cursor.layer]
        ready = [batch for batch in standing if not batch.forward_pass.expert_queues.is_done]
        if weights is not None and ready:
            self._run_together(weights, ready, cursor.expert)
        self._stopwatch.share_out(Stretch(_EXPERTS_ALONE, began, self._clock.mark()))
        # Told to stop inside the stage, a pass waits at its end rather than run into the next layer, or even sample.
        leaving = standing if self._until.layer > cursor.layer else ()
        for batch in leaving:
            if batch in self._batches and batch.forward_pass.expert_queues.is_done:  # one that failed has left the list
                deliver = partial(batch.forward_pass.deliver, lambda: self._ask(cursor))
                self._resume(batch, _EXPERTS_ALONE, deliver)

    def _run_together(self, weights: ExpertWeights, batches: Sequence[Batch], expert: int) -> None:
        """Runs one expert for several batches at once; if that raises, one by one, so only those fail that must."""
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

    def _resume(self, batch: Batch, shares: Mapping[str, float], resume: Callable[[], None]) -> None:
        """Runs a pass on, and samples if that ended the iteration; shares the time out, but for head and sampling."""
        began, stood = self._clock.mark(), batch.cursor
        forward_pass = batch.forward_pass
        if forward_pass.layers_done is not None:  # it stands in the head
            shares = _HEAD_ALONE
        try:
            resume()
            if shares is not _HEAD_ALONE and forward_pass.layers_done is not None:
                self._tell_time(batch, Stretch(shares, began, forward_pass.layers_done))
                shares, began = _HEAD_ALONE, forward_pass.layers_done
            if shares is _HEAD_ALONE:
                self._count_head(batch)
            if forward_pass.logits is not None:
                self._tell_time(batch, Stretch(shares, began, self._clock.mark()))
                _get_rules_ready(batch)  # what it waits for there is none of the head's time
                began = self._clock.mark()
                self._sample(batch, forward_pass.logits)
                self._score(batch.scoring)
        except Exception as error:  # whatever the model raises is this batch's failure, and no other's
            self._fail(batch, error)
        last = Stretch(shares, began, self._clock.mark())
        if shares is not _HEAD_ALONE and batch.cursor == stood and batch in self._batches:
            batch.spells.append(last)  # it stands inside: its time goes with the stage's counts
        else:
            self._tell_time(batch, last)

    def _tell_time(self, batch: Batch, stretch: Stretch) -> None:
        """Shares out the time of a unit that ended, or of a part of the head, with what it took before."""
        self._stopwatch.share_out(*batch.spells, stretch)
        batch.spells.clear()

    def _count_head(self, batch: Batch) -> None:
        """Counts the rows that went through the head since it was left there last, whose time is told now."""
        num_rows = batch.num_head_rows
        self.timing.num_heads += not batch.head_rows_told
        self.timing.head_rows += num_rows - batch.head_rows_told
        batch.head_rows_told = num_rows

    def _sample(self, batch: Batch, logits: Tensor) -> None:
        """Samples a token for each sequence that wants one, from logits (rows, V)."""
        sampling = [member for member in batch.members if member.samples]
        live = [(row, sequence) for row, member in enumerate(sampling) for sequence in member.samplers]
        if live:
            tokens = logits[:, : self._vocab_size]  # (rows, V): a head may have columns that no token has
            choices = sample(tokens, [sequence.next_draw() for _, sequence in live], [row for row, _ in live])
            for (_, sequence), choice in zip(live, choices, strict=True):
                if isinstance(choice, NoChoice):
                    rules = choice is not NOT_FINITE
                    self.sequence_errors.append(
                        SequenceError(sequence.seq_id, choice.reason, rules_leave_nothing=rules)
                    )
                else:
                    self.tokens.append(sequence.accept(choice))
        self.finished.append(batch)

    def _score(self, scoring: Scoring | None) -> None:
        """Takes in what an iteration that ended tells of prompts' tokens."""
        if scoring is not None:
            self.scored += scoring.scored
            self.sequence_errors += [SequenceError(seq_id, NOT_FINITE.reason) for seq_id in scoring.unscored_seq_ids]

    def _fail(self, batch: Batch, error: Exception) -> None:
        self._batches.remove(batch)
        self.failures.append((batch, error))


def _get_rules_ready(batch: Batch) -> None:
    """Waits until it is known which tokens may come next in each text of a batch."""
    for member in batch.live_members:
        if member.samples and (rules := member.sequence.rules) is not None:
            rules.get_ready()
