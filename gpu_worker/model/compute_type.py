"""Decides the type that a model is computed in: what `--dtype` says, and for `auto` the checkpoint's or float32.

A CPU without products in half precision takes several times as long with them as in float32, although it reads half of
the bytes; one that has them is faster in them. So products of the model's own sizes are timed in both (`type_trials`):

    float32    where every trial finds it 1.2 times as fast or more, and it fits into the memory that there is
    own        everywhere else, without a trial on a device, of a quantized checkpoint, and where no type is known

What was asked for is kept; where another would be 1.5 times as fast, a warning says so. It knows no files.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn

from gpu_worker.machine.free_memory import free_bytes_of_host
from gpu_worker.model.type_trials import Trial, shortest, time_types
from gpu_worker.model.weights import WeightOptions

logger = logging.getLogger(__name__)

_WORTH = 1.2  # how many times as fast float32 must be to be taken instead of the checkpoint's type
_WORTH_SAYING = 1.5  # how many times as fast another type must be for a warning that the one asked for is slow
_MOST_MEMORY = 0.8  # what float32 weights may take of the memory that caches leave; what is computed needs the rest
_HALF = (torch.bfloat16, torch.float16)
_GIB = 1 << 30


class Ranks(Protocol):
    """The processes that hold one model together."""

    @property
    def rank(self) -> int:
        """Number of this one."""
        ...

    def share_flag(self, flag: bool = False) -> bool:
        """Hands a yes or no of rank 0 to all."""
        ...


@dataclass(frozen=True, slots=True)
class Room:
    """What there is for weights, and what they would take.

    Attributes:
        float32_bytes: All weights in float32.
        free_bytes: What this process may still take.
        cache_bytes: What caches will take of it.
    """

    float32_bytes: int
    free_bytes: int
    cache_bytes: int = 0

    @property
    def suffices(self) -> bool:
        """Whether weights in float32 fit."""
        return self.float32_bytes <= _MOST_MEMORY * (self.free_bytes - self.cache_bytes)

    def __str__(self) -> str:
        weights, caches, free = (n / _GIB for n in (self.float32_bytes, self.cache_bytes, self.free_bytes))
        return f"{weights:.1f} GiB of weights, {caches:.1f} GiB of caches, {free:.1f} GiB of free memory"


@dataclass(frozen=True, slots=True)
class ComputeType:
    """The type that was chosen.

    Attributes:
        options: How weights are to be kept, with it; "auto" is the checkpoint's own.
        checkpoint: The checkpoint's type, such as "bfloat16"; empty if it is not known.
        reason: Why it was chosen, in a few words.
    """

    options: WeightOptions
    checkpoint: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether `auto` means float32, and why."""

    takes_float32: bool
    reason: str


def choose_type(
    skeleton: nn.Module,
    own: torch.dtype | None,
    options: WeightOptions,
    device: str,
    *,
    is_quantized: bool,
    cache_bytes: int = 0,
    ranks: Ranks | None = None,
) -> ComputeType:
    """Returns the type to compute in, and logs it in one line with what was measured.

    Args:
        skeleton: The model without contents.
        own: The checkpoint's type; None if it is not known.
        options: How weights are to be kept.
        device: Where they are to lie.
        is_quantized: Whether the checkpoint is quantized already.
        cache_bytes: What caches will take of the host's memory.
        ranks: The processes that hold the model together, of which the first decides; None for this one alone.
    """
    is_asked = options.dtype != "auto"
    half = torch.bfloat16 if options.dtype == "bfloat16" else own
    is_settled = is_asked and options.quantization != "none"  # most of it is then computed otherwise
    if device != "cpu" or is_quantized or is_settled or half is None or half not in _HALF:
        return _report(ComputeType(options, _name(own), "--dtype" if is_asked else "checkpoint"))
    is_first = ranks is None or ranks.rank == 0
    trials = time_types(skeleton, half, options) if is_first else ()
    room = Room(_bytes_in_float32(skeleton, options), free_bytes_of_host(), cache_bytes)
    if is_asked:
        if warning := slowness(options.dtype, _name(half), trials, room):
            logger.warning("%s", warning)
        return _report(ComputeType(options, _name(own), "--dtype"), trials)
    verdict = judge(_name(own), trials, room) if is_first else Verdict(takes_float32=False, reason="rank 0")
    takes_float32 = verdict.takes_float32 if ranks is None else ranks.share_flag(verdict.takes_float32)
    chosen = replace(options, dtype="float32") if takes_float32 else options
    return _report(ComputeType(chosen, _name(own), verdict.reason), trials)


def judge(own: str, trials: Sequence[Trial], room: Room) -> Verdict:
    """Decides what `auto` means for a checkpoint in half precision.

    Args:
        own: The checkpoint's type.
        trials: What products took in it and in float32.
        room: Memory for float32.
    """
    figures = f"{own}/float32={shortest(trials).slowdown:.2f}"
    if not all(trial.slowdown >= _WORTH for trial in trials):
        return Verdict(takes_float32=False, reason=f"measurement: {figures}")
    if not room.suffices:
        return Verdict(takes_float32=False, reason=f"memory: {figures}, but float32 does not fit: {room}")
    return Verdict(takes_float32=True, reason=f"measurement: {figures}")


def slowness(asked: str, half: str, trials: Sequence[Trial], room: Room) -> str:
    """What is to be said of a type that was asked for; empty unless another is clearly faster, and fits.

    Args:
        asked: What was asked for.
        half: The type that was tried beside float32.
        trials: What products took in both.
        room: Memory for float32.
    """
    if not trials:
        return ""
    slowdown = shortest(trials).slowdown
    slowdowns = [slowdown, *(trial.slowdown for trial in trials)]
    if asked == "float32" and max(slowdowns) <= 1 / _WORTH_SAYING:
        return f"--dtype float32: {half}, the checkpoint's type, would be {1 / slowdown:.1f} times as fast here"
    if asked == half and min(slowdowns) >= _WORTH_SAYING and room.suffices:
        return f"--dtype {half}: float32 would be {slowdown:.1f} times as fast here"
    return ""


def _report(chosen: ComputeType, trials: Sequence[Trial] = ()) -> ComputeType:
    name = chosen.checkpoint if chosen.options.dtype == "auto" else chosen.options.dtype
    measured = f" us_by_rows={shortest(trials)}" if trials else ""
    logger.info("dtype=%s checkpoint=%s from=%s%s", name, chosen.checkpoint, chosen.reason, measured)
    return chosen


def _bytes_in_float32(skeleton: nn.Module, options: WeightOptions) -> int:
    """What the weights take at most; those that are quantized while they are read a quarter."""
    num_weights = sum(parameter.numel() for parameter in skeleton.parameters())
    return num_weights * (4 if options.quantization == "none" else 1)


def _name(dtype: torch.dtype | None) -> str:
    return "" if dtype is None else str(dtype).removeprefix("torch.")
