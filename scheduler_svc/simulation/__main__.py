"""Runs one simulation: a job as JSON on stdin, what came of it as JSON on stdout.

Exit codes: 0 done, 1 the core stalled, 2 the job was refused, 130 interrupted. A message goes to stderr.
"""

import json
import sys
import time

from scheduler_svc.simulation.errors import JobRefused, SimulationError
from scheduler_svc.simulation.job import parse_job
from scheduler_svc.simulation.report import report
from scheduler_svc.simulation.simulation import Simulation


def main() -> int:
    """Reads, runs and writes; returns the exit code."""
    try:
        simulation = Simulation(parse_job(_read()))
        began_s = time.process_time()
        simulation.run()
        json.dump(report(simulation, time.process_time() - began_s), sys.stdout)
    except SimulationError as error:
        sys.stderr.write(f"simulation: {error}\n")
        return 2 if isinstance(error, JobRefused) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _read() -> object:
    try:
        return json.load(sys.stdin)
    except ValueError as error:
        raise JobRefused(f"stdin holds no JSON: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
