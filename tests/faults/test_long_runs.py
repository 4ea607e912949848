"""The long runs, for a few seconds each: they find what is wrong, or say that nothing is."""

import asyncio

import pytest

from tests.faults.checker.verdict import Outcome
from tests.faults.harness.service import Settings
from tests.faults.records import Class
from tests.faults.runs.jobs import Amounts, run_jobs
from tests.faults.runs.jobs import report as report_of_jobs
from tests.faults.runs.kills import KillsResult, run_kills
from tests.faults.runs.kills import report as report_of_kills
from tests.faults.runs.overload import report as report_of_overload
from tests.faults.runs.overload import run_overload
from tests.faults.runs.soak import report as report_of_soak
from tests.faults.runs.soak import run_soak
from tests.support.jobs.postgresql import why_no_postgresql

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FEW_REQUESTS = ("--max-ls-requests", "64", "--max-be-requests", "16")


@pytest.fixture(scope="module")
def killed() -> KillsResult:
    return asyncio.run(run_kills(Settings(), duration_s=6, every_s=3, num_clients=6))


def test_every_request_ends_and_every_kill_is_noticed_and_got_over(killed: KillsResult) -> None:
    assert killed.kills
    for kill in killed.kills:
        assert kill.num_open > 0
        assert kill.detect_s is not None
        assert kill.serve_again_s is not None
    assert not {flaw for flaw in killed.flaws if flaw != "lost"}, report_of_kills(killed)


def test_random_kills_of_the_worker_cost_no_stream(killed: KillsResult) -> None:
    assert killed.is_clean, report_of_kills(killed)
    assert all(kill.silences_s for kill in killed.kills)


def test_jobs_are_done_once_and_rightly_however_often_their_scheduler_is_killed() -> None:
    amounts = Amounts(num_jobs=40, num_kills=2, end_s=120)
    result = asyncio.run(run_jobs(Settings(), amounts, seed=1))
    assert result.is_clean, report_of_jobs(result)
    assert result.attempts.num_again > 0, "no kill hit an item that ran"


def test_jobs_of_two_schedulers_are_done_once_and_rightly_though_they_and_their_database_are_killed() -> None:
    if why_not := why_no_postgresql():
        pytest.skip(why_not)
    amounts = Amounts(num_jobs=30, num_kills=2, end_s=120, num_restarts=1)
    result = asyncio.run(run_jobs(Settings(), amounts, seed=2))
    assert result.is_clean, report_of_jobs(result)
    assert result.happened["database killed"] == 1


def test_a_load_with_cancels_and_slow_readers_leaves_nothing_behind() -> None:
    result = asyncio.run(run_soak(Settings(), duration_s=8, interval_s=0.2))
    assert not result.left
    assert not result.flaws
    assert result.outcomes[Outcome.WHOLE] > 0
    assert result.outcomes[Outcome.LEFT] > 0
    # Too short to tell a leak from a warm-up in bytes; what is counted in ones must be flat all the same.
    assert not [what for what in result.growing if not what.endswith("rss_bytes")], report_of_soak(result)


def test_under_overload_best_effort_work_is_refused_first_and_as_much_is_answered() -> None:
    settings = Settings(options=(*Settings().options, *FEW_REQUESTS))
    result = asyncio.run(run_overload(settings, factor=5, duration_s=10, capacity_s=4, num_clients=12))
    told = report_of_overload(result)
    assert result.share(Class.BEST_EFFORT, Outcome.REFUSED) > 0.2, told
    assert result.share(Class.LATENCY_SENSITIVE, Outcome.REFUSED) == 0, told
    assert result.mean_goodput > 0.6 * result.capacity_tokens_per_s, told
    assert not sum(counts[Outcome.FLAWED] for counts in result.outcomes.values()), told
