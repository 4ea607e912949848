"""Beam search written as plainly as can be, over whole vocabularies and texts: what the real one is compared with.

As arXiv 2204.05424 has it (a search ends once `width` x `patience` texts have ended), with the ways to end and the
scores of transformers.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

Text = tuple[int, ...]


class Scored(NamedTuple):
    tokens: Text
    score: float


def reference_search(
    scores_behind: Callable[[Text], Sequence[float]],
    width: int,
    max_tokens: int,
    stop: Collection[int] = (),
    *,
    patience: float = 1.0,
    length_penalty: float = 1.0,
    early_stopping: object = False,
) -> list[Scored]:
    """Returns the texts that ended, best first.

    Args:
        scores_behind: Gives the log-probability of each token of the vocabulary behind a text.
        width: Texts that go on.
        max_tokens: Where a text ends at the latest.
        stop: Tokens that end one.
        patience: So many times `width` texts are wanted.
        length_penalty: The power of the length that scores are divided by.
        early_stopping: True, False or "never".
    """
    wanted = math.ceil(width * patience)
    running: list[Scored] = [Scored((), 0.0)]
    ended: list[Scored] = []
    for length in range(1, max_tokens + 1):
        longer = [
            Scored((*text.tokens, token), text.score + score)
            for text in running
            for token, score in enumerate(scores_behind(text.tokens))
            if score > -math.inf
        ]
        longer.sort(key=lambda text: -text.score)
        is_over = [length == max_tokens or text.tokens[-1] in stop for text in longer]
        for text, over in list(zip(longer, is_over, strict=True))[:width]:
            if over:
                ended.append(Scored(text.tokens, text.score / length**length_penalty))
        running = [text for text, over in zip(longer, is_over, strict=True) if not over][:width]
        ended = sorted(ended, key=lambda text: -text.score)[:wanted]
        if not running:
            break
        if len(ended) == wanted:
            if early_stopping is True:
                break
            assumed = max_tokens if early_stopping == "never" and length_penalty > 0 else length
            if running[0].score / assumed**length_penalty <= ended[-1].score:
                break
    return ended
