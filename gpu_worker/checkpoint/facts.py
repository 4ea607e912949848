"""Decides what is believed where several files of a checkpoint, or an option, speak of the same fact.

    fact           who is believed
    -------------  -----------------------------------------------------------------------------------------------------
    end tokens     generation_config.json, config.json and the tokenizer's eos_token: each of them ends a text
    sampling       the request; then generation_config.json, unless --generation-config is none; then no filter at all
    longest text   --max-model-len, up to what the model was made for: the length that YaRN or linear scaling of its
                   positions reaches, if config.json says from where; else max_position_embeddings. Where positions of
                   all texts would change with the longest one in a batch, the length up to which they don't

Knows no torch and no transformers: configurations are objects with attributes, some of which are missing.
"""

import logging
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from gpu_worker.checkpoint.token_ids import valid_token_ids
from gpu_worker.contract.introduction import SamplingDefaults
from gpu_worker.errors import ModelRefused

logger = logging.getLogger(__name__)

_MAX_TEMPERATURE = 100.0
_MIN_PENALTY, _MAX_PENALTY = 0.01, 100.0
_STRETCHED = ("yarn", "linear")
_SHARED = ("dynamic", "longrope")
# What generation_config.json may ask for and nobody here does; a value that asks for what happens anyway is no loss.
_UNSERVED = {"no_repeat_ngram_size": 0, "typical_p": 1.0, "epsilon_cutoff": 0.0}


def end_token_ids(vocab_size: int, **named: object) -> tuple[int, ...]:
    """Returns all end tokens, rising, that several files name.

    Args:
        vocab_size: Ids are below this; what is no token of the vocabulary is left out with a warning.
        **named: By the place where it stands, what is named there: nothing, an id, or a list of ids.
    """
    found = (valid_token_ids(ids, vocab_size, f"eos_token_id of {place}") for place, ids in named.items())
    return tuple(sorted(set().union(*found)))


def sampling_defaults(given: Mapping[str, Any], vocab_size: int) -> SamplingDefaults:
    """Returns what generation_config.json says about sampling.

    Raises:
        ModelRefused: It says something that no request may ask for either.
    """
    for name, neutral in _UNSERVED.items():
        if given.get(name) not in (None, neutral):
            logger.warning("generation_config.json: %s=%s is not supported and not applied", name, given[name])
    top_k = _number(given, "top_k", -1, float("inf"))
    top_p = _number(given, "top_p", 0, 1)
    if top_p == 0:
        raise _refused("top_p", 0, "a number in (0, 1]")
    return SamplingDefaults(
        temperature=_number(given, "temperature", 0, _MAX_TEMPERATURE),
        top_k=None if top_k is None else max(0, min(int(top_k), vocab_size)),
        top_p=top_p,
        min_p=_number(given, "min_p", 0, 1),
        repetition_penalty=_number(given, "repetition_penalty", _MIN_PENALTY, _MAX_PENALTY),
    )


def _number(given: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or not isfinite(value):
        raise _refused(name, value, f"a number in [{low:g}, {high:g}]")
    return float(value)


def _refused(name: str, value: object, allowed: str) -> ModelRefused:
    return ModelRefused(
        f"generation_config.json: {name} is {value!r}, allowed is {allowed}; --generation-config none leaves it aside"
    )


def longest_text(config: Any, wished: int | None) -> int:
    """Returns the most tokens of prompt and output together.

    Args:
        config: The decoder's configuration.
        wished: What --max-model-len says.

    Raises:
        ModelRefused: More is wished for than the model was made for, or nobody says how much that is.
    """
    longest, reason = _longest(config)
    if longest is None:
        if wished is None:
            raise ModelRefused(f"{config.model_type} does not say how long a text may be; give --max-model-len")
        return wished
    if wished is not None and wished > longest:
        raise ModelRefused(f"--max-model-len: got {wished}, allowed with this model is 2 to {longest}: {reason}")
    return wished or longest


def _longest(config: Any) -> tuple[int | None, str]:
    """Returns the most tokens that the model was made for, None if unknown, and where that stands."""
    longest, reason = getattr(config, "max_position_embeddings", None), "its max_position_embeddings"
    for rope in _rope_parameters(config):
        kind, start = rope.get("rope_type"), rope.get("original_max_position_embeddings")
        if longest is None or start is None:
            continue
        reached = int(start * (rope.get("factor") or 1))
        if kind in _STRETCHED and reached > longest:
            longest, reason = reached, f"{kind} scaling of {start} positions by {rope['factor']:g}"
        if kind in _SHARED and start < longest:
            logger.warning(
                "texts of at most %d tokens, not %d: longer ones would change, by %s "
                "scaling, others that run with them",
                start,
                longest,
                kind,
            )
            longest, reason = start, f"beyond, {kind} scaling would change other texts in the batch"
    return (None if longest is None else int(longest)), reason


def _rope_parameters(config: Any) -> Iterable[Mapping[str, Any]]:
    """Yields the model's rotary parameters, of all layers or of each type of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    yield rope
    yield from (value for value in rope.values() if isinstance(value, dict))
