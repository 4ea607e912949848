"""Tells how probable the tokens of prompts were: each under the logits of the row before it.

Rows go through the head in groups, so that no more than a bounded number of logits exists at a time, however long the
prompt and however large the vocabulary. The distribution is the model's own, before any rule or filter. It knows no
model: whoever drives it gives it logits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpu_worker.cache.span import Span
from gpu_worker.contract.results import ScoredTokens
from gpu_worker.machine.devices import to_device
from gpu_worker.passes.head import FurtherLogits

_MOST_LOGITS = 1 << 22  # at a time: a few copies of them exist, in single precision


@dataclass(frozen=True, slots=True)
class Wish:
    """Whose tokens are to be scored.

    Attributes:
        seq_id: The sequence.
        span: Its part of a pass; the first of its rows is the one before the first token.
        token_ids: The tokens.
        num_alternatives: So many of the most probable tokens are told at the place of each.
    """

    seq_id: int
    span: Span
    token_ids: Sequence[int]
    num_alternatives: int


@dataclass(slots=True)
class _Columns:
    """What was found of one sequence so far, in the order of its tokens."""

    logprobs: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    alternative_ids: list[int] = field(default_factory=list)
    alternative_logprobs: list[float] = field(default_factory=list)


class Scoring:
    """The tokens that one iteration is to score.

    Args:
        wishes: Whose; at least one.
        vocab_size: Tokens of the vocabulary, which is about how many logits a row has.

    Attributes:
        scored: What was found, of sequences that were not dropped meanwhile.
        unscored_seq_ids: Sequences whose logits are no finite numbers.
        num_rows: Rows that went through the head for it.
    """

    def __init__(self, wishes: Sequence[Wish], vocab_size: int) -> None:
        self._wishes = wishes
        self._vocab_size = vocab_size
        self._most_rows = max(1, _MOST_LOGITS // vocab_size)
        self.scored: list[ScoredTokens] = []
        self.unscored_seq_ids: list[int] = []
        self.num_rows = 0

    def __call__(self, logits_of: FurtherLogits) -> None:
        """Reads the logits that it needs."""
        for wish in self._wishes:
            columns = _Columns()
            if all(self._read(wish, part, columns, logits_of) for part in self._parts(wish)):
                self._tell(wish, columns)

    def _parts(self, wish: Wish) -> Iterator[range]:
        """Which of its tokens are looked at together."""
        num_tokens = len(wish.token_ids)
        for start in range(0, num_tokens, self._most_rows):
            yield range(start, min(start + self._most_rows, num_tokens))

    def _read(self, wish: Wish, part: range, columns: _Columns, logits_of: FurtherLogits) -> bool:
        """Scores a part of a sequence's tokens; returns whether that went well."""
        if wish.span.dropped:
            return False
        start = wish.span.start
        logits = logits_of(range(start + part.start, start + part.stop))
        logits = logits[:, : self._vocab_size].float()  # (rows, V): a head may have columns that no token has
        self.num_rows += len(part)
        is_finite = bool(logits.amax(-1).isfinite().all())
        if not is_finite:
            self.unscored_seq_ids.append(wish.seq_id)
            return False
        token_ids = torch.tensor(wish.token_ids[part.start : part.stop])  # (rows,)
        self._add(columns, logits, to_device(token_ids, logits.device), wish.num_alternatives)
        return True

    def _add(self, columns: _Columns, logits: Tensor, token_ids: Tensor, num_alternatives: int) -> None:
        """Adds what logits (rows, V) say of tokens (rows,), one for each row."""
        logprobs = logits.log_softmax(-1)  # (rows, V)
        own = logprobs.gather(1, token_ids[:, None])  # (rows, 1)
        columns.logprobs += own[:, 0].tolist()
        columns.ranks += ((logprobs > own).sum(-1) + 1).tolist()
        if num_alternatives:
            best = logprobs.topk(min(num_alternatives, logprobs.shape[1]))  # (rows, alternatives) each
            columns.alternative_ids += best.indices.flatten().tolist()
            columns.alternative_logprobs += best.values.flatten().tolist()

    def _tell(self, wish: Wish, columns: _Columns) -> None:
        if wish.span.dropped:
            return
        self.scored.append(
            ScoredTokens(
                wish.seq_id,
                wish.span.first_position + 1,
                wish.token_ids,
                columns.logprobs,
                columns.ranks,
                len(columns.alternative_ids) // len(wish.token_ids),  # a vocabulary may have fewer
                columns.alternative_ids,
                columns.alternative_logprobs,
            )
        )
