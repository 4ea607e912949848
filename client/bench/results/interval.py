"""How sure a share is that was counted on some of many: Wilson's interval. Pure.

Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
"""

import math

Z_95 = 1.959964
"""Standard deviations about the mean that hold 95 % of a normal distribution."""


def wilson(num_met: int, num_all: int, z: float = Z_95) -> tuple[float, float]:
    """Returns the least and the greatest share that the counts speak for; 0 and 1 where nothing was counted."""
    if not num_all:
        return 0.0, 1.0
    share, spread = num_met / num_all, z * z / num_all
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    low = 0.0 if num_met == 0 else max(middle - half, 0.0)
    high = 1.0 if num_met == num_all else min(middle + half, 1.0)
    return low, high
