"""A simulated worker that a token kills: `python -m tests.support.service.mortal_worker`, with a worker's options.

It dies as by a fault in a kernel, in the middle of a step, whenever it computes that token.
"""

import os
import signal

from gpu_worker.__main__ import main
from gpu_worker.contract.commands import Advance
from gpu_worker.contract.executor import GoesOn
from gpu_worker.contract.results import AdvanceOutcome
from gpu_worker.simulated.executor import SimulatedExecutor

POISON = 3

_advance = SimulatedExecutor.advance


def _die_of_poison(self: SimulatedExecutor, advance: Advance, goes_on: GoesOn) -> AdvanceOutcome:
    batches = (self._batches[batch_id] for batch_id in advance.batch_ids)
    if any(POISON in part.token_ids for batch in batches for part in batch.parts):
        os.kill(os.getpid(), signal.SIGKILL)
    return _advance(self, advance, goes_on)


if __name__ == "__main__":
    SimulatedExecutor.advance = _die_of_poison  # type: ignore[method-assign]
    main()
