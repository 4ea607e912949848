"""Decides which cores the worker's threads run on. Knows no torch: OpenMP must be told before torch is loaded.

Where the threads of a tensor operation take every core, each keeps its own. Whoever else wakes up stops one of them
for a moment; left alone, the kernel then may put two on one core, and they take turns for milliseconds while the
other has nothing to do. Where there are cores to spare, because a number of threads or a quota says so, it has better
places for both.

    before torch is loaded    OpenMP is told to bind its threads: the main one as it loads, others as they start
    while the model loads     the main one is let go: threads that it starts would inherit its one core
    while it serves           the main one is back on its core
"""

import os

from gpu_worker.machine.threads import thread_count
from gpu_worker.settings import WorkerConfig


class Cores:
    """The cores that the worker may use, and the one that its main thread keeps; to be made and used by that thread.

    Attributes:
        num_threads: Threads of one tensor operation, once that is decided.
    """

    def __init__(self) -> None:
        self.num_threads = 1
        self._all = os.sched_getaffinity(0)
        self._own = self._all

    def bind_threads(self, config: WorkerConfig) -> None:
        """Has OpenMP bind its threads, if one process's would take every core and nobody has told it otherwise."""
        if config.num_ranks == 1 and thread_count(config).number == len(self._all):
            os.environ.setdefault("OMP_PROC_BIND", "true")

    def let_go(self) -> None:
        """Notes the core that OpenMP has bound the main thread to, if any; lets it run anywhere until `keep_own`."""
        self._own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._all)

    def keep_own(self) -> None:
        """Puts the main thread back on its core if that is one of several; threads it then starts run there too."""
        if self.num_threads > 1:
            os.sched_setaffinity(0, self._own)
