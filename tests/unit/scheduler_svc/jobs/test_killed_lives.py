import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from scheduler_svc.jobs.job import ItemCounts, JobStatus
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs import killable_lives
from tests.support.jobs.killable_lives import LEASE_S, NUM_ITEMS
from tests.support.jobs.new_jobs import SUCCEEDED, ended

NUM_KILLS = 20


def kill_lives(directory: Path, notes: Path) -> None:
    """Begins lives one after another, and kills each at a random moment of a few of its acknowledgements."""
    command = [sys.executable, killable_lives.__file__, str(directory), str(notes)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    moments = random.Random(7)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as lives:
        assert lives.stdin is not None
        assert lives.stdout is not None
        for _ in range(NUM_KILLS):
            lives.stdin.write("\n")
            lives.stdin.flush()
            pid = int(lives.stdout.readline())
            most = notes.read_bytes().count(b"\n") + moments.randrange(8)
            while notes.read_bytes().count(b"\n") < most:
                time.sleep(0.001)
            time.sleep(moments.uniform(0.0, 0.01))
            os.kill(pid, signal.SIGKILL)
        lives.stdin.close()
        assert lives.wait() == 0


async def run_the_rest(store: JobStore) -> None:
    """Ends what the lives left, once their leases are over."""
    await asyncio.sleep(LEASE_S)
    while claims := await store.claim("last", 100, LEASE_S * 100):
        assert await store.finish("last", [(claim, SUCCEEDED) for claim in claims]) == []


async def test_jobs_that_were_accepted_have_one_result_an_item_however_often_their_scheduler_is_killed(
    tmp_path: Path,
) -> None:
    notes = tmp_path / "notes"
    notes.touch()
    await asyncio.to_thread(kill_lives, tmp_path, notes)
    store = JobStore.in_directory(tmp_path)
    await run_the_rest(store)
    told = [line.split() for line in notes.read_text().splitlines()]
    accepted = {job_id for word, job_id, *_ in told if word == "accepted"}
    acknowledged = {
        (job_id, int(at)): answer for word, job_id, *rest in told if word == "ended" for at, answer in [rest]
    }
    assert len(accepted) >= NUM_KILLS // 4
    assert acknowledged
    for job_id in accepted:
        job = await store.job("", job_id)
        assert job is not None
        assert (job.status, job.counts) == (JobStatus.COMPLETED, ItemCounts(NUM_ITEMS, NUM_ITEMS, 0))
        results = await ended(store, job_id)
        assert [result.position for result in results] == [*range(NUM_ITEMS)]
        for result in results:
            answer = result.outcome.body.decode()
            assert acknowledged.get((job_id, result.position), answer) == answer
    assert sum(word == "ended" for word, *_ in told) == len(acknowledged), "an item was acknowledged twice"
    await store.close()
