"""How many inputs fuzz tests send, and how messages of any kind are made at random.

The same inputs every time; QLLM_FUZZ_INPUTS asks for more of them than a run of all tests has time for. A message is
made from one number, which a failure names: drawing each field by itself would take many times as long.
"""

import math
import os
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

NUM_INPUTS = int(os.environ.get("QLLM_FUZZ_INPUTS", "40"))
fuzzing = settings(
    max_examples=NUM_INPUTS, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
M = TypeVar("M", bound=Message)

_MOST_NESTED = 5
_INT32, _INT64, _UINT32, _UINT64 = (-(1 << 31), 1 << 31), (-(1 << 63), 1 << 63), (0, 1 << 32), (0, 1 << 64)
_RANGES = {
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_UINT32: _UINT32,
    FieldDescriptor.TYPE_UINT64: _UINT64,
}
_FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 2.0, 1e-40, 3e38, math.inf, -math.inf, math.nan)
_TEXTS = ("", "a", "user", "def f(x):", "ä日🙂", "\0", "\n\r\t", "{{ x }}", "%s", "../..", "x" * 300)


def whole_number(rng: Random, least: int, limit: int) -> int:
    """Mostly a small one, so that messages name things that exist; else one at an edge, or any."""
    edges = [number for number in (least, least + 1, -1, limit - 1) if least <= number < limit]
    return rng.choice(
        (rng.randint(0, 4), rng.randint(0, 8), rng.randint(0, 40), rng.choice(edges), rng.randrange(least, limit))
    )


def _text(rng: Random) -> str:
    made = "".join(chr(rng.choice((rng.randrange(128), rng.randrange(0xD800)))) for _ in range(rng.randint(0, 12)))
    return rng.choice((*_TEXTS, made))


_OTHERS: dict[int, Callable[[Random], Any]] = {
    FieldDescriptor.TYPE_DOUBLE: lambda rng: rng.choice((*_FLOATS, rng.uniform(-2, 2))),
    FieldDescriptor.TYPE_FLOAT: lambda rng: rng.choice((*_FLOATS, rng.uniform(-2, 2))),
    FieldDescriptor.TYPE_BOOL: lambda rng: rng.random() < 0.5,
    FieldDescriptor.TYPE_STRING: _text,
    FieldDescriptor.TYPE_BYTES: lambda rng: rng.randbytes(rng.randint(0, 40)),
    FieldDescriptor.TYPE_ENUM: lambda rng: rng.randint(0, 4),
}


def messages(kind: type[M]) -> st.SearchStrategy[M]:
    """Makes messages of a kind in which any field has any value, and many have none."""
    return st.integers(0, 1 << 62).map(lambda number: random_message(kind, Random(number)))


def random_message(kind: type[M], rng: Random, nested: int = 0) -> M:
    """Returns a message of a kind; of fields that exclude each other it has one, or none."""
    return kind(**{field.name: _value(field, rng, nested) for field in _present(kind.DESCRIPTOR, rng, nested)})


def _present(descriptor: Descriptor, rng: Random, nested: int) -> list[FieldDescriptor]:
    """Messages go on inside each other only so far."""
    chosen = {oneof.name: rng.choice(oneof.fields).name for oneof in descriptor.oneofs if len(oneof.fields) > 1}
    fields = []
    for field in descriptor.fields:
        oneof = field.containing_oneof
        excluded = oneof is not None and chosen.get(oneof.name, field.name) != field.name
        share = 0.95 if oneof is not None and oneof.name in chosen else 0.5
        if not excluded and rng.random() < share and (field.message_type is None or nested < _MOST_NESTED):
            fields.append(field)
    return fields


def _value(field: FieldDescriptor, rng: Random, nested: int) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return {_one(key, rng, nested): _one(value, rng, nested) for _ in range(rng.randint(0, 2))}
    return (
        [_one(field, rng, nested) for _ in range(rng.randint(0, 4))] if field.is_repeated else _one(field, rng, nested)
    )


def _one(field: FieldDescriptor, rng: Random, nested: int) -> Any:
    if field.message_type is not None:
        return random_message(GetMessageClass(field.message_type), rng, nested + 1)
    return _OTHERS[field.type](rng) if field.type in _OTHERS else whole_number(rng, *_RANGES[field.type])
