import pytest
from qllm.client.bench.load.measurement import Measurement, Window
from qllm.client.bench.load.record import RequestRecord
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.results.summary import Summary, summarize

from demo.sentence import sentence
from tests.unit.client.bench.samples import NO_OBJECTIVES, record


def measured(ttft_s: float, num_be_tokens: int, idle_s: float | None = None) -> Summary:
    ls, be = record(LS, 1.0, (1.0 + ttft_s, 1), end_s=9.0), record(BE, 1.0, (2.0, num_be_tokens), end_s=9.0)
    idle = () if idle_s is None else (record(LS, 0.0, (idle_s, 1), end_s=idle_s),)
    return of(ls, be, idle=idle)


def of(*records: RequestRecord, idle: tuple[RequestRecord, ...] = ()) -> Summary:
    return summarize(Measurement.of(idle, list(records), Window(0.0, 10.0), {}, {}), NO_OBJECTIVES)


def test_it_says_what_was_gained_and_what_was_paid() -> None:
    assert sentence(measured(2.1, 100), measured(0.1, 97, idle_s=0.09)) == (
        "Latency-sensitive requests have their first token 21 times sooner than under fcfs "
        "(1.1 times what it takes on an idle service); "
        "best-effort work makes 0.97 of the tokens per second that it makes under fcfs."
    )


@pytest.mark.parametrize(
    ("ttft_s", "said"),
    [
        (0.5, "2.0 times sooner than under fcfs"),
        (0.98, "as soon as under fcfs"),
        (1.02, "as soon as under fcfs"),
        (1.5, "1.5 times later than under fcfs"),
    ],
)
def test_a_gain_of_latency_sensitive_requests_is_said_only_where_there_is_one(ttft_s: float, said: str) -> None:
    first, _ = sentence(measured(1.0, 100), measured(ttft_s, 100)).split("; ")
    assert first == f"Latency-sensitive requests have their first token {said}"


@pytest.mark.parametrize(
    ("num_tokens", "said"),
    [
        (50, "makes 0.50 of the tokens per second that it makes under fcfs"),
        (100, "makes as many tokens per second as under fcfs"),
        (108, "makes 1.08 times the tokens per second that it makes under fcfs"),
        (0, "makes 0.00 of the tokens per second that it makes under fcfs"),
    ],
)
def test_best_effort_work_pays_or_gains_as_the_figures_say(num_tokens: int, said: str) -> None:
    _, second = sentence(measured(1.0, 100), measured(1.0, num_tokens)).split("; ")
    assert second == f"best-effort work {said}."


def test_a_first_token_that_never_came_under_fcfs_makes_the_gain_a_least_one() -> None:
    waiting = record(LS, 1.0)
    waiting.give_up(9.0)
    assert "at least 80 times sooner than under fcfs;" in sentence(of(waiting), measured(0.1, 1))


def test_what_was_not_measured_is_not_compared() -> None:
    assert sentence(of(), of()) == (
        "No latency-sensitive request was measured under both policies; "
        "best-effort work made no token under fcfs to compare with."
    )
