"""What the demo comes to, in one sentence: what LS requests gained, and what best-effort work paid. Pure.

It follows the figures, whichever way they point: a gain is called one only where there is one.
"""

from qllm.client.bench.results.summary import Summary

_SAME = 1.05  # times to the first token that are less than so many times apart are called the same


def sentence(fcfs: Summary, qllm: Summary) -> str:
    """Returns the sentence on one load under both policies."""
    return f"{_latency_sensitive(fcfs, qllm)}; {_best_effort(fcfs, qllm)}."


def _latency_sensitive(fcfs: Summary, qllm: Summary) -> str:
    before, after = fcfs.ls.ttft, qllm.ls.ttft
    if before is None or after is None:
        return "No latency-sensitive request was measured under both policies"
    gain = before.mean_ms / after.mean_ms
    at_least = "at least " if before.num_lower_bounds and not after.num_lower_bounds else ""
    if gain >= _SAME:
        compared = f"{at_least}{_number(gain)} times sooner than under fcfs"
    elif gain > 1 / _SAME:
        compared = "as soon as under fcfs"
    else:
        compared = f"{_number(1 / gain)} times later than under fcfs"
    idle = qllm.ttft_to_idle
    beside = f" ({_number(idle.mean)} times what it takes on an idle service)" if idle else ""
    return f"Latency-sensitive requests have their first token {compared}{beside}"


def _best_effort(fcfs: Summary, qllm: Summary) -> str:
    before, after = fcfs.be.tokens_per_s, qllm.be.tokens_per_s
    if not before:
        return "best-effort work made no token under fcfs to compare with"
    share = round(after / before, 2)
    if share == 1:
        return "best-effort work makes as many tokens per second as under fcfs"
    part = f"{share:.2f} of" if share < 1 else f"{share:.2f} times"
    return f"best-effort work makes {part} the tokens per second that it makes under fcfs"


def _number(times: float) -> str:
    return f"{times:.0f}" if times >= 10 else f"{times:.1f}"
