"""What a simulation hands out: each request's outcome, by columns, and the core's counters. Plain JSON."""

import math
from dataclasses import fields
from statistics import fmean

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.simulation.simulation import Outcome, Simulation

_CLASS_NAMES = {RequestClass.LATENCY_SENSITIVE: "ls", RequestClass.BEST_EFFORT: "be"}


def report(simulation: Simulation, cpu_s: float) -> dict[str, object]:
    """Returns the result of a simulation that has ended.

    Args:
        simulation: The simulation.
        cpu_s: What it took of the real processor's time.
    """
    counters, moved = simulation.scheduler.counters, simulation.scheduler.memory.counters
    return {
        "virtual_s": round(simulation.now_s, 6),
        "cpu_s": round(cpu_s, 3),
        "num_events": simulation.num_events,
        "num_tokens": simulation.worker.num_tokens,
        "window": _window(simulation),
        "outcomes": _columns(simulation.outcomes),
        "agents": _agents(simulation),
        "counters": {
            "busy_s": round(counters.busy_ns * 1e-9, 6),
            "num_commands": counters.num_commands,
            "num_iterations": counters.num_iterations,
            "num_preemptions_at_layer": counters.num_preemptions_at_layer,
            "num_preemptions_at_expert": counters.num_preemptions_at_expert,
            "num_joins": counters.num_joins,
            "num_offloads": moved.num_offloads,
            "num_drops": moved.num_drops,
            "num_prompt_tokens": moved.num_prompt_tokens,
            "num_cached_tokens": moved.num_cached_tokens,
            "num_promotions": simulation.scheduler.work.guard.num_promotions,
        },
    }


def _window(simulation: Simulation) -> dict[str, object]:
    window = simulation.window
    counts = {name: window.num_tokens[request_class] for request_class, name in _CLASS_NAMES.items()}
    return {"seconds": round(window.seconds(simulation.now_s), 6), "num_output_tokens": counts}


def _agents(simulation: Simulation) -> dict[str, object] | None:
    """Returns what programs met, and how often what was kept of them was found; None where there were none."""
    times, sessions = simulation.agent_times, simulation.scheduler.sessions
    if times is None:
        return None
    return {
        "num_programs": len(times.completions_s),
        "num_turns": len(times.turn_delays_s),
        "num_hits": sessions.num_hits,
        "num_misses": sessions.num_misses,
        "turn_delay_s": _spread(times.turn_delays_s),
        "completion_s": _spread(times.completions_s),
    }


def _spread(times_s: list[float]) -> dict[str, float]:
    """Returns the mean and two percentiles, each of which is one of the times."""
    ordered = sorted(times_s)
    ranks = {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in (("p50", 0.5), ("p99", 0.99))}
    return {name: round(value, 6) for name, value in ({"mean": fmean(ordered)} | ranks).items()}


def _columns(outcomes: list[Outcome]) -> dict[str, list[object]]:
    names = [field.name for field in fields(Outcome)]
    return {name: [_plain(getattr(outcome, name)) for outcome in outcomes] for name in names}


def _plain(value: object) -> object:
    if isinstance(value, RequestClass):
        return _CLASS_NAMES[value]
    return round(value, 6) if isinstance(value, float) else value
