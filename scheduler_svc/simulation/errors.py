"""What ends a simulation.

    SimulationError
    ├── JobRefused     the job is not allowed: names the field, what was given and what is allowed
    └── Stalled        live sequences are left and nothing will ever happen: the core contradicts itself

The process ends with code 2 for the first and 1 for the second.
"""


class SimulationError(Exception):
    """Base of what ends a simulation."""


class JobRefused(SimulationError):
    """The job holds something that is not allowed."""


class Stalled(SimulationError):
    """Live sequences are left and nothing will ever happen."""
