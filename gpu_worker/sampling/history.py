"""The tokens that a sequence has had, as far as what it may choose next depends on them.

Counts lie in tensors that grow in place, so that an iteration reads them without a look at single tokens.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class History:
    """One sequence's tokens.

    Args:
        prompt_ids: Tokens of the prompt that count as seen.
        output_ids: Tokens generated so far, in order.
    """

    def __init__(self, prompt_ids: Iterable[int] = (), output_ids: Iterable[int] = ()) -> None:
        self._outputs = list(output_ids)
        counts = Counter(self._outputs)
        seen = dict.fromkeys((*prompt_ids, *counts))
        self._places = dict(zip(seen, range(len(seen)), strict=True))
        # Made at once: a prompt may have tens of thousands.
        self._ids = torch.tensor(list(seen) or [0], dtype=torch.int64)
        self._counts = torch.tensor([float(counts[token_id]) for token_id in seen] or [0.0])

    @property
    def token_ids(self) -> Tensor:
        """The different tokens seen, (n,)."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> Tensor:
        """How often the output has each of them, (n,)."""
        return self._counts[: len(self._places)]

    @property
    def last(self) -> int | None:
        """The last token of the output, if it has any."""
        return self._outputs[-1] if self._outputs else None

    def append(self, token_id: int) -> None:
        """Takes in a token of the output."""
        place = self._place(token_id)  # first: it may put larger tensors in place
        self._counts[place] += 1
        self._outputs.append(token_id)

    def follows(self, token_ids: Sequence[int]) -> bool:
        """Whether the output ends with these tokens; it does with none."""
        return not token_ids or self._outputs[-len(token_ids) :] == list(token_ids)

    def _place(self, token_id: int) -> int:
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._ids):
            self._ids = torch.cat([self._ids, torch.empty_like(self._ids)])
            self._counts = torch.cat([self._counts, torch.zeros_like(self._counts)])
        self._ids[place] = token_id
        return place
