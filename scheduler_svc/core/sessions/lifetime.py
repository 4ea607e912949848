r"""Decides for how long a cache is kept while a tool runs: as long as the time that it may save is worth the memory.

    worth   P * gain - tau            P: the share of the tool's past durations that are no longer than tau
      |     |\
      |     | \   |\                  it jumps up where the tool returned before, and falls by a second a second
    0 +-\---|--\--|-\-------▶ tau
         \  |   \ |  \
            ▲ kept so long

Pure: knows no tool by name, no memory and no clock. Source: arXiv 2511.02230, the rule for the time to live.
"""

from collections.abc import Sequence


def best_lifetime_s(durations_s: Sequence[float], gain_s: float) -> float:
    """Returns the time tau, 0 or a past duration, for which P(tau) * gain - tau is greatest; of equal ones the least.

    Takes a time that grows with their number.

    Args:
        durations_s: Past durations in seconds, none of them negative, in ascending order.
        gain_s: What the next turn gains, in seconds, if it comes while its cache is kept.
    """
    best_s, best_worth_s = 0.0, 0.0
    gain_of_one_s = gain_s / max(1, len(durations_s))
    following = (*durations_s[1:], float("inf"))
    for number, (tau_s, next_s) in enumerate(zip(durations_s, following, strict=False), start=1):
        if tau_s == next_s:  # the last of equal ones counts them all
            continue
        worth_s = number * gain_of_one_s - tau_s
        if worth_s > best_worth_s:
            best_s, best_worth_s = tau_s, worth_s
    return best_s
