"""How a model takes its cache: the argument's name, and the class that it insists on, if any."""

from dataclasses import dataclass
from functools import cache as remembered
from inspect import isclass, signature
from typing import Any, get_args

from transformers.cache_utils import Cache

from gpu_worker.errors import PassFailed


@dataclass(frozen=True, slots=True)
class CacheArgument:
    """What a model calls its cache, in arguments and outputs, and of which class it wants it."""

    name: str
    of_class: type[Cache]


def cache_argument(model: Any) -> CacheArgument:
    """Reads from a causal language model how it takes its cache.

    Raises:
        PassFailed: Its forward takes none.
    """
    classes: tuple[Any, Any] = type(model), type(model.get_decoder())
    return _cache_argument(*classes)


@remembered
def _cache_argument(model: Any, decoder: Any) -> CacheArgument:
    names = ("cache", "past_key_values", "cache_params")  # the first since transformers 5.24
    name = next((one for one in names if one in signature(model.forward).parameters), None)
    if name is None:
        raise PassFailed(f"{model.__name__} takes no cache")
    wanted = signature(decoder.forward).parameters.get(name)
    classes = get_args(wanted.annotation) if wanted is not None else ()
    return CacheArgument(name, next((one for one in classes if isclass(one) and issubclass(one, Cache)), Cache))
