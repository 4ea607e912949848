"""Decides whether a draft's way to choose tokens is allowed, and fills in what was left out.

Each refusal is an InvalidRequest that names the field as GenerateRequest does, what was given and what is allowed.
"""

import secrets
from collections.abc import Iterator, Sequence
from typing import TypeVar

from scheduler_svc.api.draft import SamplingDraft
from scheduler_svc.api.validation import valid_token_ids
from scheduler_svc.core.state.sequence import SamplingParams
from scheduler_svc.errors import Amount, InvalidRequest
from scheduler_svc.generation import SamplingDefaults
from scheduler_svc.text.tokenizer import Tokenizer

MAX_TEMPERATURE = 100.0
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 100.0
MAX_ALLOWED_TOKENS = 4096
MAX_PENALTY = 2.0
MAX_BIASES = 1024
MAX_BIAS = 100.0
MAX_BAD_WORDS = 64
MAX_BAD_WORD_BYTES = 256
MAX_TOP_LOGPROBS = 20
# Of one request, alternatives included: so many are written to an answer at once, of a megabyte or ten in JSON.
MAX_PROMPT_LOGPROBS = 1 << 17
MIN_SEED, MAX_SEED = -(1 << 63), (1 << 63) - 1
# Below this, dividing the logits overflows; the choice is the most probable token anyway.
GREEDY_BELOW_TEMPERATURE = 1e-5
_LINE_END = "\n"
NO_DEFAULTS = SamplingDefaults()

Number = TypeVar("Number", int, float)


def valid_sampling(given: SamplingDraft, vocab_size: int, defaults: SamplingDefaults = NO_DEFAULTS) -> SamplingParams:
    """Returns how tokens are chosen: as given, else as the model's makers do, else without any filter or rule.

    Without a seed it is a random one. Bad words are texts, and left to `bad_word_ids`.
    """
    temperature = _first_of(given.temperature, defaults.temperature, 1.0)
    top_k = _first_of(given.top_k, defaults.top_k, 0)
    top_p = _first_of(given.top_p, defaults.top_p, 1.0)
    min_p = _first_of(given.min_p, defaults.min_p, 0.0)
    seed = secrets.randbits(63) if given.seed is None else given.seed
    repetition_penalty = _first_of(given.repetition_penalty, defaults.repetition_penalty, 1.0)
    if not 0 <= temperature <= MAX_TEMPERATURE:  # also false for NaN
        raise InvalidRequest("sampling.temperature", temperature, f"a number in [0, {MAX_TEMPERATURE:g}]")
    if not 0 <= top_k <= vocab_size:
        raise InvalidRequest("sampling.top_k", top_k, f"an integer in [0, {vocab_size}], 0 for all tokens")
    if not 0 < top_p <= 1:
        raise InvalidRequest("sampling.top_p", top_p, "a number in (0, 1]")
    if not 0 <= min_p <= 1:
        raise InvalidRequest("sampling.min_p", min_p, "a number in [0, 1]")
    typical_p = _first_of(given.typical_p, None, 1.0)
    if not 0 < typical_p <= 1:
        raise InvalidRequest("sampling.typical_p", typical_p, "a number in (0, 1], 1 for all tokens")
    if not MIN_SEED <= seed <= MAX_SEED:
        raise InvalidRequest("sampling.seed", seed, "an integer of 64 bits")
    if not MIN_REPETITION_PENALTY <= repetition_penalty <= MAX_REPETITION_PENALTY:
        allowed = f"a number in [{MIN_REPETITION_PENALTY:g}, {MAX_REPETITION_PENALTY:g}], 1 for none"
        raise InvalidRequest("sampling.repetition_penalty", repetition_penalty, allowed)
    if not 0 <= given.num_top_logprobs <= MAX_TOP_LOGPROBS:
        raise InvalidRequest("num_top_logprobs", given.num_top_logprobs, f"an integer in [0, {MAX_TOP_LOGPROBS}]")
    wanted = given.num_prompt_logprobs
    if wanted is not None and not 0 <= wanted <= MAX_TOP_LOGPROBS:
        raise InvalidRequest("num_prompt_logprobs", wanted, f"an integer in [0, {MAX_TOP_LOGPROBS}]")
    return SamplingParams(
        temperature=0.0 if temperature < GREEDY_BELOW_TEMPERATURE else temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
        seed=seed,
        repetition_penalty=repetition_penalty,
        presence_penalty=_valid_penalty("sampling.presence_penalty", given.presence_penalty),
        frequency_penalty=_valid_penalty("sampling.frequency_penalty", given.frequency_penalty),
        logit_bias=_valid_bias(given.logit_bias, vocab_size),
        allowed_token_ids=_valid_allowed(given.allowed_token_ids, vocab_size),
        num_top_logprobs=min(given.num_top_logprobs, vocab_size),
        num_prompt_logprobs=None if wanted is None else min(wanted, vocab_size),
    )


def num_prompt_numbers(sampling: SamplingParams, num_prompt_tokens: int) -> int:
    """Counts the log-probabilities that are told of a prompt, alternatives included."""
    wanted = sampling.num_prompt_logprobs
    return 0 if wanted is None else num_prompt_tokens * (1 + wanted)


def require_prompt_numbers(given: int, field: str = "num_prompt_logprobs") -> None:
    """Raises InvalidRequest if a request asks for more of them than an answer may hold."""
    if given > MAX_PROMPT_LOGPROBS:
        amount = Amount(given, "log-probabilities of prompts, alternatives included")
        raise InvalidRequest(field, amount, f"at most {MAX_PROMPT_LOGPROBS} in all")


def bad_word_ids(words: Sequence[str], tokenizer: Tokenizer | None, vocab_size: int) -> tuple[tuple[int, ...], ...]:
    """Returns the tokens of words that the output shall not have, at its start and behind a space."""
    field = "sampling.bad_words"
    if len(words) > MAX_BAD_WORDS:
        raise InvalidRequest(field, Amount(len(words), "words"), f"at most {MAX_BAD_WORDS} words")
    if not words:
        return ()
    if tokenizer is None:
        raise InvalidRequest(field, Amount(len(words), "words"), "none: the model has no tokenizer")
    found: dict[tuple[int, ...], None] = {}
    for index, word in enumerate(words):
        num_bytes = len(word.encode())
        if not 1 <= num_bytes <= MAX_BAD_WORD_BYTES or not word.strip():
            shown = word if num_bytes <= MAX_BAD_WORD_BYTES else Amount(num_bytes, "bytes")
            raise InvalidRequest(f"{field}[{index}]", shown, f"a word of 1 to {MAX_BAD_WORD_BYTES} bytes")
        for ids in _ways_to_write(word, tokenizer):
            if ids and max(ids) < vocab_size:  # what the model can't generate needs no rule
                found[ids] = None
    return tuple(found)


def _ways_to_write(word: str, tokenizer: Tokenizer) -> Iterator[tuple[int, ...]]:
    """Returns the tokens of a word at the start of a text, behind a space, and behind a line's end.

    The last are those at the start of an answer, too: some tokenizers write a space before every text by itself.
    """
    yield tokenizer.encode(word, add_special_tokens=False)
    yield tokenizer.encode(" " + word.lstrip(), add_special_tokens=False)
    before, both = (tokenizer.encode(text, add_special_tokens=False) for text in (_LINE_END, _LINE_END + word))
    if both[: len(before)] == before:
        yield both[len(before) :]


def _valid_penalty(field: str, given: float | None) -> float:
    penalty = 0.0 if given is None else given
    if not -MAX_PENALTY <= penalty <= MAX_PENALTY:
        raise InvalidRequest(field, penalty, f"a number in [-{MAX_PENALTY:g}, {MAX_PENALTY:g}]")
    return penalty


def _valid_bias(given: Sequence[tuple[int, float]], vocab_size: int) -> tuple[tuple[int, float], ...]:
    field = "sampling.logit_bias"
    if len(given) > MAX_BIASES:
        raise InvalidRequest(field, Amount(len(given), "tokens"), f"at most {MAX_BIASES} tokens")
    for token_id, bias in given:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(field, token_id, f"token ids in [0, {vocab_size - 1}]")
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise InvalidRequest(f"{field}[{token_id}]", bias, f"a number in [-{MAX_BIAS:g}, {MAX_BIAS:g}]")
    return tuple(sorted(given))


def _valid_allowed(given: Sequence[int], vocab_size: int) -> tuple[int, ...]:
    field = "sampling.allowed_token_ids"
    if len(given) > MAX_ALLOWED_TOKENS:
        raise InvalidRequest(field, Amount(len(given), "ids"), f"at most {MAX_ALLOWED_TOKENS} ids")
    return tuple(sorted(set(valid_token_ids(field, given, vocab_size))))


def _first_of(given: Number | None, default: Number | None, otherwise: Number) -> Number:
    return given if given is not None else default if default is not None else otherwise
