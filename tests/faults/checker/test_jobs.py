"""Each flaw is found in jobs that have it, and none in jobs that have none."""

from dataclasses import replace

import pytest

from tests.faults import plans
from tests.faults.checker.jobs import JobFlaw, JobsVerdict, custom_id_of, judge_jobs
from tests.faults.job_records import FoundJob, FoundResult, JobRecord
from tests.faults.records import Class, Plan

PLANS = tuple(plans.plan(Class.BEST_EFFORT, 4, 3, number) for number in range(2))
TOKENS = {PLANS[0]: (1, 2, 3), PLANS[1]: (4, 5, 6)}
RESULTS = tuple(FoundResult(at, custom_id_of(at), TOKENS[plan]) for at, plan in enumerate(PLANS))
JOB = FoundJob("batch_1", "one", "COMPLETED", 2, 2, 0, RESULTS)


def record(key: str = "", *batch_ids: str) -> JobRecord:
    return JobRecord("one", PLANS, key, [*batch_ids])


def judged(
    given: JobRecord, *found: FoundJob, seen_before: dict[tuple[str, int], FoundResult] | None = None
) -> JobsVerdict:
    def tokens_of(plan: Plan) -> tuple[int, ...] | None:
        return TOKENS.get(plan)

    return judge_jobs([given], found, seen_before or {}, tokens_of)


def test_a_job_that_was_acknowledged_and_done_is_well() -> None:
    verdict = judged(record("", "batch_1"), JOB, seen_before={("batch_1", 1): RESULTS[1]})
    assert not verdict.flaws, verdict.examples
    assert (verdict.num_acknowledged, verdict.num_items) == (1, 2)


def test_a_call_without_a_key_whose_answer_was_lost_may_have_made_a_job_or_none() -> None:
    assert not judged(record()).flaws
    verdict = judged(record(), JOB)
    assert not verdict.flaws
    assert (verdict.num_unheard, verdict.num_unheard_accepted) == (1, 1)


@pytest.mark.parametrize(
    ("flaw", "given", "found"),
    [
        (JobFlaw.LOST, record("", "batch_1"), ()),
        (JobFlaw.LOST, record("key"), ()),
        (JobFlaw.LOST, record("key", "batch_1", "batch_2"), (JOB,)),
        (JobFlaw.TWICE, record("", "batch_1"), (JOB, replace(JOB, batch_id="batch_2"))),
        (JobFlaw.UNKNOWN, record("", "batch_1"), (JOB, replace(JOB, name="two"))),
        (JobFlaw.NOT_ENDED, record("", "batch_1"), (replace(JOB, status="IN_PROGRESS"),)),
        (JobFlaw.MISCOUNTED, record("", "batch_1"), (replace(JOB, num_failed=1),)),
        (JobFlaw.RESULT_MISSING, record("", "batch_1"), (replace(JOB, results=RESULTS[:1]),)),
        (JobFlaw.RESULT_TWICE, record("", "batch_1"), (replace(JOB, results=(*RESULTS, RESULTS[1])),)),
        (
            JobFlaw.ITEM_FAILED,
            record("", "batch_1"),
            (replace(JOB, results=(RESULTS[0], replace(RESULTS[1], error="INTERNAL"))),),
        ),
        (
            JobFlaw.WRONG_TOKENS,
            record("", "batch_1"),
            (replace(JOB, results=(RESULTS[0], replace(RESULTS[1], token_ids=(4, 5, 7)))),),
        ),
        (
            JobFlaw.UNKNOWN,
            record("", "batch_1"),
            (replace(JOB, results=(RESULTS[0], replace(RESULTS[1], custom_id="item-7"))),),
        ),
    ],
)
def test_each_flaw_is_found(flaw: JobFlaw, given: JobRecord, found: tuple[FoundJob, ...]) -> None:
    assert set(judged(given, *found).flaws) == {flaw}


def test_a_result_that_was_another_before_is_found() -> None:
    before = {("batch_1", 0): replace(RESULTS[0], token_ids=(1, 2))}
    assert set(judged(record("", "batch_1"), JOB, seen_before=before).flaws) == {JobFlaw.RESULT_CHANGED}


def test_a_refusal_that_nothing_excuses_is_found() -> None:
    given = JobRecord("one", PLANS, "", ["batch_1"], ["INTERNAL: internal error"])
    assert set(judged(given, JOB).flaws) == {JobFlaw.REFUSED}
