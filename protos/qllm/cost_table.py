"""What a simulated model is: its size, and the time that each kind of work takes. Read from JSON, checked in full.

Times are linear in the counts that the scheduler's cost model knows too: attention stages, tokens and query-key
pairs; runs of an expert and tokens; heads and rows. What moving caches takes may be left out, and then it takes no
time. Tables that are shipped lie in `cost_tables`; each says where its numbers are from.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

_COUNTS = {
    "num_layers": (1, 10_000),
    "num_experts": (1, 100_000),
    "num_experts_per_token": (1, 100_000),
    "max_model_len": (2, 1 << 24),
    "num_blocks": (1, 1 << 24),
    "num_host_blocks": (0, 1 << 24),
}
_TIMES_US = {
    "attention_us": ("fixed", "per_token", "per_pair"),
    "expert_us": ("fixed", "per_token"),
    "head_us": ("fixed", "per_row"),
}
_TEXTS = ("name", "source")
_NAMES = (*_TEXTS, *_COUNTS, *_TIMES_US)
_MOVING = "moving"  # the one field that may be left out
_SPEEDS = ("offload_gib_per_s", "restore_gib_per_s")
_MOVING_NAMES = ("block_bytes", *_SPEEDS)
_MOST_US, _MOST_BLOCK_BYTES, _LEAST_GIB_PER_S, _MOST_GIB_PER_S = 1e9, 1 << 40, 1e-3, 1e6
_GIB = 1 << 30


class CostTableRefused(ValueError):
    """A table that holds something that is not allowed; the message names it, what was given and what is allowed."""


@dataclass(frozen=True, slots=True)
class Moving:
    """What moving caches between the device and host memory takes.

    Attributes:
        block_bytes: Bytes of one cache block, in all layers.
        offload_gib_per_s: Speed off the device.
        restore_gib_per_s: Speed back to it.
    """

    block_bytes: int
    offload_gib_per_s: float
    restore_gib_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """A simulated model.

    Attributes:
        name: Name of the model for callers.
        source: Where the numbers are from, for readers.
        num_layers: Decoder layers, all alike.
        num_experts: Experts of each layer.
        num_experts_per_token: Experts chosen for each token.
        max_model_len: Longest prompt plus output in tokens.
        num_blocks: Cache blocks on the device.
        num_host_blocks: Cache blocks of host memory.
        attention_us: Microseconds of an attention stage: of itself, of each token, of each query-key pair.
        expert_us: Microseconds of an expert's run: of itself, of each token.
        head_us: Microseconds of an iteration's end: of itself, of each row of logits.
        moving: What moving caches takes; None: no time, and blocks are of no known size.
    """

    name: str
    source: str
    num_layers: int
    num_experts: int
    num_experts_per_token: int
    max_model_len: int
    num_blocks: int
    num_host_blocks: int
    attention_us: tuple[float, float, float]
    expert_us: tuple[float, float]
    head_us: tuple[float, float]
    moving: Moving | None = None

    @property
    def is_free(self) -> bool:
        """Whether no work takes any time."""
        return not any((*self.attention_us, *self.expert_us, *self.head_us))

    def attention_ns(self, num_tokens: int, num_pairs: int) -> int:
        """Nanoseconds of one attention stage of one batch."""
        fixed, per_token, per_pair = self.attention_us
        return round(1e3 * (fixed + per_token * num_tokens + per_pair * num_pairs))

    def expert_ns(self, num_tokens: int) -> int:
        """Nanoseconds of one run of an expert."""
        fixed, per_token = self.expert_us
        return round(1e3 * (fixed + per_token * num_tokens))

    def head_ns(self, num_rows: int) -> int:
        """Nanoseconds from the last layer to the sampled tokens of one batch."""
        fixed, per_row = self.head_us
        return round(1e3 * (fixed + per_row * num_rows))

    def offload_ns(self, num_blocks: int) -> int:
        """Nanoseconds of moving so many blocks off the device."""
        return _moving_ns(self.moving.block_bytes * num_blocks, self.moving.offload_gib_per_s) if self.moving else 0

    def restore_ns(self, num_blocks: int) -> int:
        """Nanoseconds of moving so many blocks back."""
        return _moving_ns(self.moving.block_bytes * num_blocks, self.moving.restore_gib_per_s) if self.moving else 0


def _moving_ns(num_bytes: int, gib_per_s: float) -> int:
    return round(1e9 * num_bytes / (gib_per_s * _GIB))


def shipped_tables() -> dict[str, object]:
    """Returns the tables that are shipped by their names, in the order of these, as parsed JSON."""
    paths = sorted((files("qllm") / "cost_tables").iterdir(), key=lambda path: path.name)
    return {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in paths}


def parse_cost_table(content: object, place: str = "") -> CostTable:
    """Returns the table that parsed JSON describes.

    Args:
        content: An object with all of the table's fields, of which only `moving` may be left out, and no others.
        place: Where it stands in something larger, for messages.

    Raises:
        CostTableRefused: Something in it is not allowed.
    """
    if not isinstance(content, Mapping):
        raise _refusal(place, f"got {type(content).__name__}, allowed is an object")
    if wrong := sorted(set(_NAMES) ^ (set(map(str, content)) - {_MOVING})):
        needed = f"needed are {', '.join(_NAMES)}; {_MOVING} may be left out"
        raise _refusal(place, f"missing or not known: {', '.join(wrong)}; {needed}")
    inside = f"{place}." if place else ""
    counts = {name: _count(inside + name, content[name], *limits) for name, limits in _COUNTS.items()}
    _check(f"{inside}num_experts_per_token", counts["num_experts_per_token"], 1, counts["num_experts"])
    attention, expert, head = (_times(inside + name, content[name], parts) for name, parts in _TIMES_US.items())
    return CostTable(
        name=str(content["name"]),
        source=str(content["source"]),
        **counts,
        attention_us=(attention["fixed"], attention["per_token"], attention["per_pair"]),
        expert_us=(expert["fixed"], expert["per_token"]),
        head_us=(head["fixed"], head["per_row"]),
        moving=_moving(inside + _MOVING, content[_MOVING]) if _MOVING in content else None,
    )


def _count(name: str, value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refusal(name, f"got {value!r}, allowed is a whole number")
    _check(name, value, low, high)
    return value


def _times(name: str, value: object, parts: tuple[str, ...]) -> dict[str, float]:
    strange = sorted(set(map(str, value)) - set(parts)) if isinstance(value, Mapping) else []
    if not isinstance(value, Mapping) or set(value) != set(parts):
        raise _refusal(name, f"got {', '.join(strange) or repr(value)}, allowed is an object of {', '.join(parts)}")
    for part in parts:
        if not isinstance(value[part], (int, float)) or isinstance(value[part], bool):
            raise _refusal(f"{name}.{part}", f"got {value[part]!r}, allowed is a number of microseconds")
        _check(f"{name}.{part}", value[part], 0, _MOST_US)
    return {part: float(value[part]) for part in parts}


def _moving(name: str, value: object) -> Moving:
    if not isinstance(value, Mapping) or set(value) != set(_MOVING_NAMES):
        given = ", ".join(sorted(map(str, value))) if isinstance(value, Mapping) else repr(value)
        raise _refusal(name, f"got {given}, allowed is an object of {', '.join(_MOVING_NAMES)}")
    for speed in _SPEEDS:
        if not isinstance(value[speed], (int, float)) or isinstance(value[speed], bool):
            raise _refusal(f"{name}.{speed}", f"got {value[speed]!r}, allowed is a number of GiB a second")
        _check(f"{name}.{speed}", value[speed], _LEAST_GIB_PER_S, _MOST_GIB_PER_S)
    block_bytes = _count(f"{name}.block_bytes", value["block_bytes"], 1, _MOST_BLOCK_BYTES)
    return Moving(block_bytes, *(float(value[speed]) for speed in _SPEEDS))


def _check(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise _refusal(name, f"got {value}, allowed is {low:g} to {high:g}")


def _refusal(name: str, reason: str) -> CostTableRefused:
    return CostTableRefused(f"{name}: {reason}" if name else reason)
