"""What beam searches from tiny random models find by `transformers` itself, and by a plain reference."""

from functools import cache

import torch

from scheduler_svc.core.beams.params import BeamParams
from tests.support.core.beam_reference import Scored, Text, reference_search
from tests.support.models.families import random_model


@cache
def likely_tokens(family: str, prompt: Text, num_tokens: int, most: int = 2) -> Text:
    """Tokens that many beams come by, so that stopping at them ends texts of several lengths."""
    with torch.inference_mode():
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        found = random_model(family).generate(
            ids, attention_mask=mask, num_beams=4, max_new_tokens=num_tokens, num_return_sequences=4, do_sample=False
        )
    tokens = found[:, len(prompt) + 1 :].flatten().tolist()
    return tuple(sorted(set(tokens), key=lambda token: (-tokens.count(token), token))[:most])


@cache
def searched(
    family: str,
    prompt: Text,
    params: BeamParams,
    num_tokens: int,
    stop: Text,
    repetition_penalty: float = 1.0,
    allowed: Text = (),
    bad_words: tuple[Text, ...] = (),
) -> list[Scored]:
    """What `generate` finds with a patience of 1: tokens and score of each text, best first."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        found = random_model(family).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            num_beams=params.width,
            num_return_sequences=params.num_returned,
            length_penalty=params.length_penalty,
            early_stopping=params.early_stopping.value,
            repetition_penalty=repetition_penalty,
            prefix_allowed_tokens_fn=(lambda *_: list(allowed)) if allowed else None,
            bad_words_ids=[list(word) for word in bad_words] or None,
            eos_token_id=list(stop) or None,
            pad_token_id=0,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
    texts = []
    for row, score in zip(found.sequences[:, len(prompt) :].tolist(), found.sequences_scores.tolist(), strict=True):
        ends = [place for place, token in enumerate(row) if token in stop]
        texts.append(Scored(tuple(row[: ends[0] + 1] if ends else row[:num_tokens]), score))
    return texts


@cache
def searched_plainly(family: str, prompt: Text, params: BeamParams, num_tokens: int, stop: Text) -> list[Scored]:
    """What the plain reference finds, with a forward pass over the whole text for each step of each beam."""
    model = random_model(family)

    @cache
    def scores_behind(text: Text) -> list[float]:
        with torch.inference_mode():
            logits = model(torch.tensor([(*prompt, *text)])).logits[0, -1]
        scores: list[float] = logits.float().log_softmax(-1).tolist()
        return scores

    found = reference_search(
        scores_behind,
        params.width,
        num_tokens,
        stop,
        patience=params.patience,
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping.value,
    )
    return found[: params.num_returned]
