"""Lives of a scheduler that are there to be killed: each adds jobs, claims items and ends them, as fast as it can.

    python killable_lives.py DIRECTORY NOTES

For each line that comes, another life begins; it prints its process id when it has its store. What was acknowledged to
a life stands in NOTES, a line each. The lives are forked, as importing takes longer than they last.
"""

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from scheduler_svc.jobs.job import ItemOutcome, ItemStatus
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.new_jobs import new_items, new_job

LEASE_S = 0.3
NUM_ITEMS = 5
_JOBS_A_LIFE = 3


async def live(directory: Path, notes: Path) -> None:
    owner = f"life-{os.getpid()}"
    store = JobStore.in_directory(directory)
    await store.open()
    print(os.getpid(), flush=True)  # noqa: T201
    with notes.open("ab", buffering=0) as file:
        for number in count():
            if number < _JOBS_A_LIFE:
                job = await store.create_job(new_job(), new_items(NUM_ITEMS))
                file.write(f"accepted {job.job_id}\n".encode())
            for claim in await store.claim(owner, 2, LEASE_S):
                answer = f"{owner}-{claim.attempt}"
                outcome = ItemOutcome(status=ItemStatus.SUCCEEDED, body=answer.encode())
                if not await store.finish(owner, [(claim, outcome)]):
                    file.write(f"ended {claim.job_id} {claim.position} {answer}\n".encode())


def main(directory: Path, notes: Path) -> None:
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            asyncio.run(live(directory, notes))
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
