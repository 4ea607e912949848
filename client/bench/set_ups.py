"""The ways to schedule that commands compare, by the names that tables and options have for them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class SetUpName(StrEnum):
    """A way to schedule that a service can be started with."""

    FCFS = "fcfs"
    PRIORITY = "priority-iteration"
    PAPER = "paper"
    LAYER = "qllm-layer"
    EXPERT = "qllm-expert"


@dataclass(frozen=True, slots=True)
class SetUp:
    """How a scheduler is set, in a service or in a simulation.

    Attributes:
        label: What it is called in tables.
        settings: Settings of the core that differ from its defaults, by the names of their
            fields; only simulations vary them.
    """

    label: str
    policy: str
    preempt_at: str
    settings: Mapping[str, float] = field(default_factory=dict)

    @property
    def options(self) -> tuple[str, ...]:
        """Options of `qllm-scheduler`: its policy, and where that stops if set-ups of the policy differ in it.

        Otherwise a service stops where it is configured to, and reports that with its results.
        """
        where = ("--preempt-at", self.preempt_at) if self.policy == "qllm" else ()
        return ("--policy", self.policy, *where)


SET_UPS: Mapping[SetUpName, SetUp] = {
    SetUpName.FCFS: SetUp(SetUpName.FCFS, "fcfs", "iteration"),
    SetUpName.PRIORITY: SetUp(SetUpName.PRIORITY, "priority-iteration", "iteration"),
    SetUpName.PAPER: SetUp(SetUpName.PAPER, "paper", "expert"),
    SetUpName.LAYER: SetUp(SetUpName.LAYER, "qllm", "layer"),
    SetUpName.EXPERT: SetUp(SetUpName.EXPERT, "qllm", "expert"),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to start a service, by options of its scheduler and of its worker.

    Attributes:
        label: What it is called in tables.
    """

    label: str
    scheduler: tuple[str, ...] = ()
    worker: tuple[str, ...] = ()


class VictimSetUp(StrEnum):
    """What becomes of the caches of sequences that give way to others."""

    OFFLOAD = "offload"
    RECOMPUTE = "recompute"


VICTIM_SET_UPS: Mapping[VictimSetUp, Variant] = {
    VictimSetUp.OFFLOAD: Variant(VictimSetUp.OFFLOAD),
    VictimSetUp.RECOMPUTE: Variant(VictimSetUp.RECOMPUTE, worker=("--host-kv-gib", "0")),
}


class SessionSetUp(StrEnum):
    """For how long the caches of sessions are kept while a tool runs."""

    WITHOUT = "without"
    FIXED = "fixed"
    RULE = "rule"


def session_variant(set_up: SessionSetUp, fixed_ttl_s: float) -> Variant:
    """Returns how a service with this set-up is started; `fixed_ttl_s` is the time of the fixed one."""
    options = {
        SessionSetUp.WITHOUT: ("--session-ttl-s", "0"),
        SessionSetUp.FIXED: ("--session-ttl-s", f"{fixed_ttl_s:g}"),
        SessionSetUp.RULE: (),
    }
    return Variant(set_up, scheduler=options[set_up])
