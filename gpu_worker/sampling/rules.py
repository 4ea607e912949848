"""What one sequence's tokens have to keep to, made ready once, with what of its tokens so far that depends on.

What is the same at each token lies in tensors where the logits are, so that an iteration neither looks at hundreds of
biases one by one, nor moves them there.
"""

from collections.abc import Iterator, Sequence

import torch

from gpu_worker.contract.commands import AddSequence, Sampling
from gpu_worker.machine.devices import to_device
from gpu_worker.sampling.guide import Guide, Guides
from gpu_worker.sampling.history import History

NEVER = float("-inf")
HOST = torch.device("cpu")


class Rules:
    """One sequence's rules.

    Args:
        sampling: What they are.
        history: The tokens that it has had; None where nothing depends on them.
        guide: Keeps it to a structure; None where it has none.
        device: Where the logits are.

    Attributes:
        sampling: As given.
        history: As given.
        guide: As given.
        allowed_ids: The only tokens that may be chosen (A,); none: all may.
        shifted_ids: Tokens whose logits are changed wherever they stand (S,).
        shifts: What is added to them (S,).
    """

    def __init__(
        self,
        sampling: Sampling,
        history: History | None = None,
        guide: Guide | None = None,
        device: torch.device = HOST,
    ) -> None:
        self.sampling, self.history, self.guide = sampling, history, guide
        self._device = device
        self.allowed_ids = to_device(torch.tensor(sampling.allowed_token_ids, dtype=torch.int64), device)
        shifts = [*sampling.logit_bias, *((word[0], NEVER) for word in sampling.bad_words if len(word) == 1)]
        shifted_ids = torch.tensor([token_id for token_id, _ in shifts], dtype=torch.int64)
        self.shifted_ids = to_device(shifted_ids, device)
        self.shifts = to_device(torch.tensor([shift for _, shift in shifts], dtype=torch.float32), device)
        self._words: dict[int, list[Sequence[int]]] = {}
        for word in sampling.bad_words:
            if len(word) > 1:
                self._words.setdefault(word[-2], []).append(word)

    @classmethod
    def of(cls, add: AddSequence, guides: Guides, device: torch.device = HOST) -> "Rules | None":
        """Returns the rules of a sequence that is made known; None if it has none."""
        sampling = add.sampling
        if not sampling.has_rules:
            return None
        history = History(add.prompt_token_ids, add.output_token_ids) if sampling.looks_back else None
        guide = guides.guide(sampling.grammar, add.output_token_ids) if sampling.grammar else None
        return cls(sampling, history, guide, device)

    @property
    def is_whole(self) -> bool:
        """Whether the text is kept to a structure and whole, so that it can only end."""
        return self.guide is not None and self.guide.is_whole

    def get_ready(self) -> None:
        """Waits until it is known what may come next, which is found out beside the model."""
        if self.guide is not None:
            self.guide.mask()

    @property
    def last_of_bad_words(self) -> Iterator[int]:
        """Tokens that would end a bad word of several."""
        last = None if self.history is None else self.history.last
        for word in self._words.get(last, ()) if last is not None else ():
            if self.history is not None and self.history.follows(word[:-1]):
                yield word[-1]

    def accept(self, token_id: int) -> None:
        """Takes in the next token."""
        if self.history is not None:
            self.history.append(token_id)
        if self.guide is not None:
            self.guide.accept(token_id)
