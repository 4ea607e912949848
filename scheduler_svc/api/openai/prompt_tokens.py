"""How probable a prompt's tokens are, as the APIs show it: a field of vLLM's, and the echo of OpenAI's completions.

Source: vLLM's API (prompt_logprobs); OpenAI's API reference, completions (echo and logprobs).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scheduler_svc.api.openai.token_texts import TokenTexts, finite
from scheduler_svc.core.state.prompt_scores import PromptScores
from scheduler_svc.core.state.results import TokenLogprob


class ShownToken(NamedTuple):
    """A token of the prompt or of the output, with the most probable ones at its place; the first one has neither."""

    token_id: int
    logprob: float | None
    top: Sequence[tuple[int, float]]


class Echo:
    """The prompt as the beginning of a completion: its text, and its tokens as it is told how probable they are.

    Args:
        text: The prompt's text; None: what its tokens say, those that are no part of a text included.
        token_texts: Tells the prompt's tokens.
        num_alternatives: So many are shown of each token.
    """

    def __init__(self, text: str | None, token_texts: TokenTexts, num_alternatives: int) -> None:
        self._text = token_texts.prompt_text() if text is None else text
        self._first_id = token_texts.prompt_token_ids[0]
        self._num_alternatives = num_alternatives
        self._is_begun = False
        self.token_texts = token_texts.at_start(self._text)

    def next(self, scores: PromptScores | None) -> tuple[str, list[ShownToken]]:
        """Returns what is to be shown next: all of the text at first, and the tokens that it is told of."""
        text, tokens = ("", []) if self._is_begun else (self._text, [ShownToken(self._first_id, None, ())])
        self._is_begun = True
        return text, [*tokens, *_shown(scores, self._num_alternatives)]


def prompt_logprobs(token_texts: TokenTexts, scores: PromptScores | None, num_alternatives: int) -> list[object]:
    """Returns what vLLM has in a field of this name: for each token of the prompt the ones at its place, by id."""
    texts = token_texts.at_start("")
    texts.next(token_texts.prompt_token_ids[0])
    ranks = iter(() if scores is None else scores.ranks)
    shown: list[object] = [None]
    for token_id, logprob, top in _shown(scores, num_alternatives):
        places = {token_id: (logprob or 0.0, next(ranks))}
        for rank, (other_id, other_logprob) in enumerate(top, start=1):
            places.setdefault(other_id, (other_logprob, rank))
        shown.append(
            {
                str(one_id): {"logprob": finite(value), "rank": rank, "decoded_token": texts.peek(one_id).text}
                for one_id, (value, rank) in places.items()
            }
        )
        texts.next(token_id)
    return shown


def generated(
    token_ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[Sequence[TokenLogprob]]
) -> Iterator[ShownToken]:
    """Yields tokens of the output."""
    for token_id, logprob, top in zip(token_ids, logprobs, tops, strict=True):
        yield ShownToken(token_id, logprob, top)


def _shown(scores: PromptScores | None, num_alternatives: int) -> Iterator[ShownToken]:
    for index in range(0 if scores is None else len(scores)):
        assert scores is not None
        alternatives = scores.alternatives(index)[:num_alternatives]
        yield ShownToken(scores.token_ids[index], scores.logprobs[index], alternatives)
