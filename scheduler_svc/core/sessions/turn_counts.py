"""Learns from how many turns programs had whether one that has had many has few left. Knows no program and no clock.

    eta = -Corr(turns served, turns left), over the turns of programs that have ended:
    1 where all have the same number of turns, 0 where a program ends after each turn by the same chance

Source: arXiv 2511.02230.
"""

import math

ENOUGH_PROGRAMS = 20
_FORGETTING = 0.99  # for each program that ends: about the last hundred count


class TurnCounts:
    """Sums over the turns of programs that have ended, of which the last ones weigh most."""

    def __init__(self) -> None:
        self._num_programs = 0
        # Of turns, of those served and those left, of their squares and of their products.
        self._turns = self._served = self._left = self._served_squared = self._left_squared = self._product = 0.0

    def program_ended(self, num_turns: int) -> None:
        """Takes in how many turns a program had."""
        if num_turns < 1:
            return
        n = num_turns
        served, left = n * (n + 1) / 2, n * (n - 1) / 2  # after turn i, i are served and n - i left
        served_squared, left_squared = n * (n + 1) * (2 * n + 1) / 6, (n - 1) * n * (2 * n - 1) / 6
        keep = _FORGETTING
        self._num_programs += 1
        self._turns = keep * self._turns + n
        self._served = keep * self._served + served
        self._left = keep * self._left + left
        self._served_squared = keep * self._served_squared + served_squared
        self._left_squared = keep * self._left_squared + left_squared
        self._product = keep * self._product + n * served - served_squared

    @property
    def eta(self) -> float:
        """How much it gains to let a program go on that has been served, from 0 to 1; 1 while too little is known."""
        if self._num_programs < ENOUGH_PROGRAMS:
            return 1.0
        mean_served, mean_left = self._served / self._turns, self._left / self._turns
        var_served = self._served_squared / self._turns - mean_served**2
        var_left = self._left_squared / self._turns - mean_left**2
        if min(var_served, var_left) < 1e-9:  # all programs had one turn: nothing is left ever
            return 1.0
        covariance = self._product / self._turns - mean_served * mean_left
        # Where programs that have had many turns have even more left, a turn that waits still does not gain by it.
        return min(1.0, max(0.0, -covariance / math.sqrt(var_served * var_left)))
