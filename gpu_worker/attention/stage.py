"""Runs one layer's attention of a ragged batch, in parts between which the pass may be left for others.

    chunk of a prompt  |part . . . .|part . . .|part . .|part .|     the more rows they see, the fewer queries to a part
    single queries     |1 1 1 1 1 1 1 1 1|1 1 1 1 1 1 1|             as many to a part as come to its work

It knows the sequences' rows and how a layer attends, and nothing of models.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import pad

from gpu_worker.attention.choice import products_pay
from gpu_worker.attention.cpu import Runs, attend_fused, attend_fused_over, attend_in_tiles, attend_one_by_one, flash
from gpu_worker.attention.scores import attend_by_scores
from gpu_worker.cache.ragged import RaggedCache
from gpu_worker.cache.span import Span
from gpu_worker.passes.forward import ForwardPass

_PART_WORK = 1 << 28  # multiplications of a part: a few milliseconds of two cores
_LEAST_QUERIES = 16  # with fewer a part takes longer to read K and V than to use them
_TILE = 64  # queries that kernels take at once

Reader = Callable[[Span, int], Runs]


def reader(cache: RaggedCache, layer: int, key: Tensor, value: Tensor) -> Reader:
    """What reads a span's sequence from some row to its last row of this pass: a chunk's rows end to end in one piece.

    A single query's rows stay where they are if they lie in a few pieces: copying them takes longer than its attention.
    """
    if not cache.is_latent(layer):
        return lambda span, start: (
            cache.read_runs(layer, span, start) if span.num_tokens == 1 else [cache.read(layer, span, start)]
        )
    live = [span for span in cache.spans if not span.dropped]
    firsts = accumulate((span.length for span in live), initial=0)
    first_rows = {span.table: first for span, first in zip(live, firsts, strict=False)}

    def read(span: Span, start: int) -> Runs:
        first = first_rows[span.table]
        rows = slice(first + start, first + span.length)
        return [(key[0, :, rows], value[0, :, rows])]

    return read


@dataclass(frozen=True, slots=True)
class Rules:
    """How a layer attends.

    Attributes:
        scale: Factor on the scores.
        window: Rows that a token sees, its own included; None is all.
        sinks: Attention sinks (H, T or 1), if any; of one sequence (H, n or 1).
        chosen: Rows (n, chosen) that an indexer chose for each token of the only sequence; None is all.
        bias: Added to the scores (H, n, rows) of the only sequence, if any.
        softcap: What the scores are brought below by tanh, if anything.
    """

    scale: float
    window: int | None
    sinks: Tensor | None
    chosen: Tensor | None
    bias: Tensor | None
    softcap: float | None

    @property
    def are_plain(self) -> bool:
        """Whether they are a scale and a window and nothing else."""
        return all(rule is None for rule in (self.sinks, self.chosen, self.bias, self.softcap))

    @property
    def are_of_scores_alone(self) -> bool:
        """Whether they are the same for every row that is seen, whatever its place: plain, or with sinks."""
        return all(rule is None for rule in (self.chosen, self.bias, self.softcap))

    @property
    def are_for_all_rows(self) -> bool:
        """Whether any of them is given for all rows of the only sequence at once."""
        return self.chosen is not None or self.bias is not None

    def of(self, span: Span) -> "Rules":
        """Those of one sequence."""
        if self.sinks is None or self.sinks.shape[1] == 1:
            return self
        return replace(self, sinks=self.sinks[:, span.start : span.stop])


@dataclass(slots=True)
class AttentionStage:
    """One layer's attention for all sequences of a pass.

    Whatever moved or was dropped while the pass was left is seen: K and V are read anew for each part.

    Attributes:
        forward_pass: The pass.
        query: (H, T, width).
        read: Reads K and V.
        num_kv_heads: Heads of K and V.
        rules: How the layer attends.
        output: (T, H, width of V), zeros to be filled; nobody reads what stays zero.
        work_left: Multiplications until the pass is next offered to be left.
    """

    forward_pass: ForwardPass
    query: Tensor
    read: Reader
    num_kv_heads: int
    rules: Rules
    output: Tensor
    work_left: int = 0

    def run(self) -> None:
        """Attends sequence by sequence, and last with single queries over long histories together."""
        singles: list[Span] = []
        shape = (self.num_kv_heads, self.output.shape[-1])
        for span in self.forward_pass.attending():
            is_single = span.num_tokens == 1 and self.rules.are_plain
            if is_single and products_pay(self.query, 1, self._num_visible(span), *shape):
                singles.append(span)
                continue
            for part in self._parts(span):
                self._offer_pause(part.num_tokens * self._work(part))
                if span.is_gone:
                    break
                self._attend(part)
        for group in self._groups(singles):
            self._offer_pause(sum(map(self._work, group)))
            self._attend_singles([span for span in group if not span.is_gone])

    def _first_visible(self, span: Span) -> int:
        """First row of the sequence that any token of the span sees."""
        return 0 if self.rules.window is None else max(0, span.first_position - self.rules.window + 1)

    def _num_visible(self, span: Span) -> int:
        """Rows of the sequence that any token of the span sees."""
        return span.length - self._first_visible(span)

    def _work(self, span: Span) -> int:
        """Multiplications of one query that sees all that the span does."""
        return self._num_visible(span) * len(self.query) * (self.query.shape[-1] + self.output.shape[-1])

    def _parts(self, span: Span) -> Iterator[Span]:
        """Divides a sequence's queries; those that one indexer chose rows for, or one bias is for, stay together."""
        most = max(_LEAST_QUERIES, _PART_WORK // self._work(span))
        most -= most % _TILE if most > _TILE else 0
        whole = most >= span.num_tokens or self.rules.are_for_all_rows
        return iter((span,)) if whole else span.parts(most)

    def _groups(self, singles: Sequence[Span]) -> Iterator[list[Span]]:
        """Divides single queries."""
        group: list[Span] = []
        work = 0
        for single in singles:
            group.append(single)
            work += self._work(single)
            if work >= _PART_WORK:
                yield group
                group, work = [], 0
        if group:
            yield group

    def _offer_pause(self, work: int) -> None:
        """Lets the pass be left before such work once a part's has been done since the last time, and at the start."""
        if work > self.work_left:
            self.forward_pass.offer_pause(self.query, self.output)
            self.work_left = _PART_WORK
        self.work_left -= work

    def _attend(self, part: Span) -> None:
        start = self._first_visible(part)
        q = self.query[:, part.start : part.stop]  # (H, n, width)
        attended = _attend(self.forward_pass.cache, part, start, q, self.read(part, start), self.rules.of(part))
        self.output[part.start : part.stop] = attended.transpose(0, 1)  # (n, H, width of V)

    def _attend_singles(self, singles: Sequence[Span]) -> None:
        if not singles:
            return
        rows = slice(None) if len(singles) == len(self.output) else [span.start for span in singles]
        histories = (self.read(span, self._first_visible(span)) for span in singles)
        query = self.query.transpose(0, 1)[rows]  # (B, H, width)
        self.output[rows] = attend_one_by_one(query, histories, self.num_kv_heads, self.rules.scale)


def _attend(cache: RaggedCache, span: Span, start: int, q: Tensor, runs: Runs, rules: Rules) -> Tensor:
    """One sequence: q (H, n, width) over its rows from `start` to q's last. (H, n, width)."""
    if len(runs) > 1 and rules.are_of_scores_alone and runs[0][0].shape == runs[0][1].shape:
        return attend_fused_over(q, runs, rules.scale, rules.sinks)
    k, v = (torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] for parts in zip(*runs, strict=True))
    return _attend_at_once(cache, span, start, q, k, v, rules)


def _attend_at_once(
    cache: RaggedCache, span: Span, start: int, q: Tensor, k: Tensor, v: Tensor, rules: Rules
) -> Tensor:
    """As _attend, over k, v (H_kv, rows, width)."""
    num_queries, num_rows = q.shape[1], k.shape[1]
    window = None if rules.window is None or num_rows <= rules.window else rules.window
    chosen = None if rules.chosen is None or rules.chosen.shape[-1] >= num_rows else rules.chosen
    is_scored = rules.bias is not None or rules.softcap is not None
    plain = rules.sinks is None and chosen is None and not is_scored
    if plain and num_queries > 1 and products_pay(q, num_queries, num_rows, len(k), v.shape[-1]):
        hidden = None if window is None else cache.mask(span, start, window, q.dtype, q.device)  # (n, rows)
        return attend_in_tiles(q, k, v, rules.scale, hidden)
    # One token sees all rows that were read. A prompt with nothing before it is what is_causal means.
    causal = 1 < num_queries == num_rows and window is None and chosen is None
    mask = None
    if chosen is not None:
        mask = _mask_of_chosen(cache.mask(span, start, window, q.dtype, q.device), chosen)  # (n, rows)
    elif num_queries > 1 and (is_scored or not causal):
        mask = cache.mask(span, start, window, q.dtype, q.device)  # (n, rows)
    if is_scored:
        bias = None if rules.bias is None else rules.bias[..., start:]  # (H, n, rows)
        hidden = None if mask is None else mask < 0  # (n, rows)
        return attend_by_scores(
            q, k, v, rules.scale, hidden=hidden, bias=bias, softcap=rules.softcap, sinks=rules.sinks
        )
    if rules.sinks is not None:
        return _attend_with_sinks(q, k, v, rules.sinks, mask, causal, rules.scale)
    return attend_fused(q, k, v, rules.scale, mask, causal=causal)


def _mask_of_chosen(mask: Tensor, chosen: Tensor) -> Tensor:
    """A mask (n, rows) that hides all rows but the chosen ones (n, chosen) too; those it hid before stay hidden."""
    hidden = torch.ones_like(mask, dtype=torch.bool).scatter_(1, chosen.long(), False)  # (n, rows)
    return mask.masked_fill(hidden, float("-inf"))


def _attend_with_sinks(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """As _attend, with sinks (H, n or 1): softmax over scores and the sink is softmax over the scores, times a share.

    With lse the log of the summed exponentials of the scores, that share is exp(lse) / (exp(lse) + exp(sink)).
    """
    width = max(q.shape[-1], v.shape[-1])  # the kernel wants one width; zeros change no score
    wide_q, wide_k, wide_v = (
        rows if rows.shape[-1] == width else pad(rows, (0, width - rows.shape[-1])) for rows in (q, k, v)
    )
    out, lse = flash(wide_q[None], wide_k[None], wide_v[None], scale, mask, causal=causal)
    share = torch.sigmoid(lse[0] - sinks)  # (H, n)
    attended: Tensor = out[0, ..., : v.shape[-1]] * share[..., None].to(out.dtype)  # (H, n, width of V)
    return attended
