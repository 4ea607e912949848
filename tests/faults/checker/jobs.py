"""Says what is wrong with jobs, against what is promised: accepted means done, once an item, with the right tokens.

    asked with a key          one job, whatever became of the calls
    asked once, without one   one job if the call was answered, else one or none
    each job that is there    completed, one result an item, which never changes

Pure: knows no process and no clock.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.faults.job_records import FoundJob, FoundResult, JobRecord
from tests.faults.records import Plan

_NUM_EXAMPLES = 5


class JobFlaw(StrEnum):
    """What can be wrong with a job."""

    LOST = "lost"  # it was acknowledged, or had a key, and is not there
    TWICE = "twice"  # it was asked for once, or with one key, and there are several
    REFUSED = "refused"  # its call ended with an error that nothing excuses
    UNKNOWN = "unknown"  # nobody asked for it
    NOT_ENDED = "not ended"  # it is not completed
    MISCOUNTED = "miscounted"  # it says other numbers than there are results
    RESULT_MISSING = "result missing"
    RESULT_TWICE = "result twice"
    RESULT_CHANGED = "result changed"  # it was another one when it was read before
    ITEM_FAILED = "item failed"
    WRONG_TOKENS = "wrong tokens"


@dataclass(slots=True)
class JobsVerdict:
    """What became of all jobs.

    Attributes:
        num_acknowledged: Jobs whose acceptance a client heard of.
        num_unheard: Calls without a key whose answer was lost.
        num_unheard_accepted: How many of them made a job all the same.
    """

    num_acknowledged: int = 0
    num_unheard: int = 0
    num_unheard_accepted: int = 0
    num_items: int = 0
    flaws: Counter[JobFlaw] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def note(self, flaw: JobFlaw, what: str) -> None:
        """Counts a flaw."""
        self.flaws[flaw] += 1
        if len(self.examples) < _NUM_EXAMPLES:
            self.examples.append(f"{flaw}: {what}")


def judge_jobs(
    records: Iterable[JobRecord],
    found: Iterable[FoundJob],
    seen_before: Mapping[tuple[str, int], FoundResult],
    tokens_of: Callable[[Plan], Sequence[int] | None],
) -> JobsVerdict:
    """Returns the verdict on jobs that have had their time.

    Args:
        records: What was asked for.
        found: All jobs that there are.
        seen_before: Results that were read meanwhile, by job and position.
        tokens_of: Gives the right tokens of a plan.
    """
    verdict = JobsVerdict()
    by_name: defaultdict[str, list[FoundJob]] = defaultdict(list)
    for job in found:
        by_name[job.name].append(job)
    for record in records:
        there = by_name.pop(record.name, [])
        _judge_number(verdict, record, there)
        for job in there:
            _judge_job(verdict, record, job, tokens_of)
            _judge_changes(verdict, job, seen_before)
    for job in [job for jobs in by_name.values() for job in jobs]:
        verdict.note(JobFlaw.UNKNOWN, f"{job.batch_id}, named {job.name!r}")
    return verdict


def _judge_number(verdict: JobsVerdict, record: JobRecord, there: Sequence[FoundJob]) -> None:
    """As many jobs are there as should be, and those that callers were told of."""
    heard = bool(record.batch_ids)
    verdict.num_acknowledged += heard
    if not heard and not record.key:
        verdict.num_unheard += 1
        verdict.num_unheard_accepted += len(there)
    for refusal in record.refusals:
        verdict.note(JobFlaw.REFUSED, f"{record.name}: {refusal}")
    for batch_id in set(record.batch_ids) - {job.batch_id for job in there}:
        verdict.note(JobFlaw.LOST, f"{record.name}: {batch_id} was acknowledged")
    if record.key and not heard:
        verdict.note(JobFlaw.LOST, f"{record.name}: never acknowledged, though it was asked for again and again")
    if len(there) > 1:
        verdict.note(JobFlaw.TWICE, f"{record.name}: {', '.join(job.batch_id for job in there)}")


def _judge_job(
    verdict: JobsVerdict, record: JobRecord, job: FoundJob, tokens_of: Callable[[Plan], Sequence[int] | None]
) -> None:
    verdict.num_items += len(record.plans)
    if job.status != "COMPLETED":
        verdict.note(JobFlaw.NOT_ENDED, f"{job.batch_id} is {job.status}")
    if (job.num_items, job.num_succeeded, job.num_failed) != (len(record.plans), len(record.plans), 0):
        counts = f"{job.num_items} items, {job.num_succeeded} succeeded, {job.num_failed} failed"
        verdict.note(JobFlaw.MISCOUNTED, f"{job.batch_id}: {counts} of {len(record.plans)}")
    numbers = Counter(result.position for result in job.results)
    for position in range(len(record.plans)):
        where = f"{job.batch_id} item {position}"
        if numbers[position] != 1:
            flaw = JobFlaw.RESULT_TWICE if numbers[position] else JobFlaw.RESULT_MISSING
            verdict.note(flaw, where)
    for result in job.results:
        where = f"{job.batch_id} item {result.position}"
        if not 0 <= result.position < len(record.plans) or result.custom_id != custom_id_of(result.position):
            verdict.note(JobFlaw.UNKNOWN, f"{where}, {result.custom_id!r}")
        elif result.error:
            verdict.note(JobFlaw.ITEM_FAILED, f"{where}: {result.error}")
        elif (right := tokens_of(record.plans[result.position])) is None or tuple(right) != result.token_ids:
            verdict.note(JobFlaw.WRONG_TOKENS, where)


def _judge_changes(verdict: JobsVerdict, job: FoundJob, seen: Mapping[tuple[str, int], FoundResult]) -> None:
    for result in job.results:
        if seen.get((job.batch_id, result.position), result) != result:
            verdict.note(JobFlaw.RESULT_CHANGED, f"{job.batch_id} item {result.position}")


def custom_id_of(position: int) -> str:
    """Returns what the item at a position is called."""
    return f"item-{position}"
