"""What happened since the start, in numbers that an operator reads."""

from dataclasses import dataclass, field

from scheduler_svc.core.state.sequence import RequestClass


@dataclass(slots=True)
class ClassCounters:
    """Counts of one class."""

    num_finished: int = 0
    num_generated_tokens: int = 0
    num_prompt_tokens: int = 0
    busy_ns: int = 0


@dataclass(slots=True)
class Counters:
    """Counts of one scheduler; `control_idle_ns` is worker time lost between steps while work waited."""

    busy_ns: int = 0
    control_idle_ns: int = 0
    num_commands: int = 0
    num_iterations: int = 0
    num_preemptions_at_layer: int = 0
    num_preemptions_at_expert: int = 0
    num_joins: int = 0
    classes: dict[RequestClass, ClassCounters] = field(
        default_factory=lambda: {c: ClassCounters() for c in RequestClass}
    )
