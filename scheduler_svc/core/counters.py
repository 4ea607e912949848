"""What happened since the start, in numbers that an operator reads."""

from dataclasses import dataclass, field

from scheduler_svc.core.state.sequence import RequestClass


@dataclass(slots=True)
class ClassCounters:
    """Counts of one class.

    Attributes:
        num_generated_tokens: Tokens sampled for it, those of every beam of a search too.
        num_ended_tokens: Tokens that the answers of those had that ended; of a search those of its best one.
        num_first_tokens: Requests that had their first token.
        num_first_tokens_in_time: Those that had it in time.
        num_paced: Requests that ended whole and had more than one token.
        num_paced_in_time: Those whose further tokens came in time on average.
        num_judged: Requests that ended whole.
        num_attained: Those that were in time with the first token and with the further ones.
    """

    num_finished: int = 0
    num_generated_tokens: int = 0
    num_ended_tokens: int = 0
    num_prompt_tokens: int = 0
    busy_ns: int = 0
    num_first_tokens: int = 0
    num_first_tokens_in_time: int = 0
    num_paced: int = 0
    num_paced_in_time: int = 0
    num_judged: int = 0
    num_attained: int = 0


@dataclass(slots=True)
class Counters:
    """Counts of one scheduler.

    Attributes:
        control_idle_ns: Worker time lost between steps while work waited.
        num_riders: Best-effort sequences that rode in latency-sensitive iterations, each counted in each of these.
        num_offloaded_blocks: Blocks that were moved off the device, and what that kept the worker.
        num_restored_blocks: Blocks that were moved back, likewise.
        suspended_bytes: What suspended passes held at the last answer, and their tokens.
    """

    busy_ns: int = 0
    control_idle_ns: int = 0
    num_commands: int = 0
    num_iterations: int = 0
    num_preemptions_at_layer: int = 0
    num_preemptions_at_expert: int = 0
    num_joins: int = 0
    num_riders: int = 0
    num_offloaded_blocks: int = 0
    offload_ns: int = 0
    num_restored_blocks: int = 0
    restore_ns: int = 0
    suspended_bytes: int = 0
    suspended_tokens: int = 0
    classes: dict[RequestClass, ClassCounters] = field(
        default_factory=lambda: {c: ClassCounters() for c in RequestClass}
    )
