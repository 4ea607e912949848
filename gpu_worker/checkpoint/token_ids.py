"""Decides which token ids that a checkpoint's files name are tokens, before any of them reaches the scheduler."""

import logging
from collections.abc import Iterator

logger = logging.getLogger(__name__)


def valid_token_ids(named: object, vocab_size: int, place: str) -> tuple[int, ...]:
    """Returns the ids that are tokens of a vocabulary; what is none is left out with a warning, as other servers do.

    Args:
        named: What a file says: nothing, an id, or a list of ids; whatever else JSON can hold is no token.
        vocab_size: Ids are below this.
        place: The file and key, for the warning.
    """
    values = list(_flat(named))
    valid = tuple(value for value in values if type(value) is int and 0 <= value < vocab_size)
    wrong = [value for value in values if value not in valid or type(value) is not int]
    if wrong:
        left = "" if valid else ": none is left"
        logger.warning("%s: left out %s, allowed are 0 to %d%s", place, repr(wrong)[:200], vocab_size - 1, left)
    return valid


def _flat(named: object) -> Iterator[object]:
    if isinstance(named, (list, tuple)):
        for one in named:
            yield from _flat(one)
    elif named is not None:
        yield named
