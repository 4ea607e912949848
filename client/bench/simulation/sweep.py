"""What a simulated experiment varies, point by point, and the set-ups that it compares at each point. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from qllm.client.bench.errors import BenchError
from qllm.client.bench.set_ups import SET_UPS, SetUp, SetUpName
from qllm.client.bench.simulation.simulator import ClassResult
from qllm.client.bench.simulation.traffic import MAX_PROMPT_TOKENS, Mix, MixedLoad, ReplayedTrace, Traffic, with_share
from qllm.settings import plain

ALONE = "qllm-alone"
SIMULATED = (
    SET_UPS[SetUpName.FCFS],
    SET_UPS[SetUpName.PAPER],
    SET_UPS[SetUpName.PRIORITY],
    SET_UPS[SetUpName.LAYER],
    SET_UPS[SetUpName.EXPERT],
    SetUp(ALONE, "qllm", "expert", {"ls_tpot_s": 0.0}),
)


class Axis(StrEnum):
    """What is varied."""

    RATE = "rate"
    LS_SHARE = "ls-share"
    BE_PROMPT = "be-prompt"
    QUANTUM = "quantum"
    LS_TPOT = "ls-tpot"

    @property
    def heading(self) -> str:
        """The axis with its unit."""
        return _TITLES[self]

    @property
    def values(self) -> tuple[float, ...]:
        """The points that are run unless others are asked for."""
        return _VALUES[self]

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value that makes sense."""
        return _BOUNDS[self]


_TITLES = {
    Axis.RATE: "requests a second",
    Axis.LS_SHARE: "share of latency-sensitive requests",
    Axis.BE_PROMPT: "tokens of a best-effort prompt",
    Axis.QUANTUM: "preemption quantum, ms",
    Axis.LS_TPOT: "promised time per token, ms",
}
_VALUES: dict[Axis, tuple[float, ...]] = {
    Axis.RATE: (1, 2, 3, 4, 5, 6, 7, 8),
    Axis.LS_SHARE: (0.05, 0.1, 0.2, 0.4, 0.6, 0.8),
    Axis.BE_PROMPT: (64, 256, 1024, 4096),
    Axis.QUANTUM: (1, 2, 5, 10, 20, 50, 100),
    Axis.LS_TPOT: (10, 20, 35, 50, 75, 100, 150, 200),
}
_BOUNDS: dict[Axis, tuple[float, float]] = {
    Axis.RATE: (0.001, 10_000.0),
    Axis.LS_SHARE: (0.0, 1.0),
    Axis.BE_PROMPT: (1, MAX_PROMPT_TOKENS),
    # Those of the scheduler's options, which would refuse a value in seconds and by another name.
    Axis.QUANTUM: (0.1, 10_000.0),
    Axis.LS_TPOT: (0.0, 60_000.0),
}
_SETTINGS = {Axis.QUANTUM: "preemption_quantum_s", Axis.LS_TPOT: "ls_tpot_s"}


@dataclass(frozen=True, slots=True)
class Point:
    """One value of the axis, None where nothing is varied: the traffic and the set-ups to compare on it."""

    value: float | None
    traffic: Traffic
    set_ups: tuple[SetUp, ...]


class PolicyResult(Protocol):
    """What one set-up came to, simulated or measured."""

    @property
    def ls(self) -> ClassResult:
        """The latency-sensitive requests."""

    @property
    def be(self) -> ClassResult:
        """The best-effort requests."""

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of all requests a second."""


R_co = TypeVar("R_co", bound=PolicyResult, covariant=True)


@dataclass(frozen=True)
class PointResult(Generic[R_co]):
    """What the set-ups came to at one point, by their labels."""

    value: float | None
    results: Mapping[str, R_co]


def points(axis: Axis | None, values: Sequence[float], traffic: Traffic, set_ups: Sequence[SetUp]) -> list[Point]:
    """Returns the points of a sweep, or the one point where nothing is varied.

    Raises:
        BenchError: A value is out of bounds, or a trace cannot be varied so.
    """
    if axis is None:
        return [Point(None, traffic, tuple(set_ups))]
    low, high = axis.bounds
    for value in values:
        if not low <= value <= high:
            raise BenchError(f"--values: got {plain(value)}, allowed for {axis.value} is {plain(low)} to {plain(high)}")
    return [Point(value, _vary_traffic(axis, value, traffic), _vary_set_ups(axis, value, set_ups)) for value in values]


def parse_values(text: str, option: str = "--values") -> tuple[float, ...]:
    """Reads numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BenchError(f"{option}: got {text!r}, allowed are numbers with commas between them") from None


def choose_set_ups(labels: Sequence[str]) -> list[SetUp]:
    """Returns the set-ups of these labels, all of them if none is given; the baseline is always among them."""
    known = {set_up.label: set_up for set_up in SIMULATED}
    for label in labels:
        if label not in known:
            raise BenchError(f"--set-up: got {label!r}, allowed are {', '.join(known)}")
    return [set_up for set_up in SIMULATED if not labels or set_up.label in labels or set_up.label == SetUpName.FCFS]


def apply_settings(set_ups: Sequence[SetUp], settings: Sequence[str]) -> list[SetUp]:
    """Returns the set-ups with `NAME=NUMBER` settings in each; the simulator refuses those its core does not know."""
    return [replace(one, settings={**one.settings, **dict(map(_read_setting, settings))}) for one in set_ups]


def _read_setting(setting: str) -> tuple[str, float]:
    name, _, text = setting.partition("=")
    try:
        value = float(text)
    except ValueError:
        raise BenchError(f"--set: got {setting!r}, allowed is NAME=NUMBER") from None
    return name, int(value) if value.is_integer() else value


def _vary_traffic(axis: Axis, value: float, traffic: Traffic) -> Traffic:
    if axis in _SETTINGS:
        return traffic
    if isinstance(traffic, ReplayedTrace) and axis is not Axis.LS_SHARE:
        allowed = ", ".join((Axis.LS_SHARE, *_SETTINGS))
        raise BenchError(f"--sweep {axis.value}: a trace has its own; allowed with --trace are {allowed}")
    if isinstance(traffic, MixedLoad):
        return _vary_mixed_load(axis, value, traffic)
    if axis is Axis.LS_SHARE:
        return with_share(traffic, value)
    assert isinstance(traffic, Mix)
    if axis is Axis.BE_PROMPT:
        return replace(traffic, be_prompt_tokens=round(value))
    return replace(traffic, rate_per_s=value)


def _vary_mixed_load(axis: Axis, value: float, traffic: MixedLoad) -> MixedLoad:
    if axis is Axis.LS_SHARE:
        allowed = ", ".join((Axis.RATE, Axis.BE_PROMPT, *_SETTINGS))
        raise BenchError(f"--sweep ls-share: clients that never pause have none; allowed with them are {allowed}")
    if axis is Axis.BE_PROMPT:
        return replace(traffic, be_prompt_tokens=round(value))
    return replace(traffic, ls_rate_per_s=value)


def _vary_set_ups(axis: Axis, value: float, set_ups: Sequence[SetUp]) -> tuple[SetUp, ...]:
    """Returns the set-ups with the value in their settings; what stands for one end of the axis keeps its own."""
    if axis not in _SETTINGS:
        return tuple(set_ups)
    varied = {_SETTINGS[axis]: value / 1e3}
    return tuple(
        one if axis is Axis.LS_TPOT and one.label == ALONE else replace(one, settings={**one.settings, **varied})
        for one in set_ups
    )
