import io
from dataclasses import replace

from qllm.client.bench.load.measurement import Measurement, Window
from qllm.client.bench.load.record import RequestRecord
from qllm.client.bench.load.target import TargetFacts
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.results.summary import Targets
from rich.console import Console

from demo.report import Outcome, compare, results_table
from tests.unit.client.bench.samples import record


def outcome(*records: RequestRecord, idle: tuple[RequestRecord, ...] = (), **counters: int) -> Outcome:
    return Outcome(facts(tpot_ms="50"), Measurement.of(idle, list(records), Window(0.0, 10.0), counters, {}), {})


def facts(tpot_ms: str) -> TargetFacts:
    return TargetFacts("grpc", "127.0.0.1:1", "mini", 100, {"ls_tpot_ms": tpot_ms})


def rows(fcfs: Outcome, qllm: Outcome) -> list[list[str]]:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(results_table(fcfs, qllm))
    lines = [line.split("│")[1:-1] for line in console.export_text().splitlines()]
    return [[cells[0][1:].rstrip(), *(cell.strip() for cell in cells[1:])] for cells in lines if cells]


def test_comparison_names_the_prompts_whose_tokens_differ() -> None:
    same = compare("a against b", {0: (1,), 1: (2,)}, {1: (2,), 2: (3,)})
    assert (str(same), same.is_proof) == ("a against b: all 1 identical", True)
    other = compare("a against b", {0: (1,), 1: (2,)}, {0: (1,), 1: (9,)})
    assert (str(other), other.is_proof) == ("a against b: 1 of 2 DIFFER, prompts [1]", False)


def test_comparing_nothing_proves_nothing() -> None:
    assert not compare("a against b", {0: (1,)}, {1: (1,)}).is_proof


def test_the_table_sets_both_policies_beside_the_idle_service_in_words_of_those_who_wait() -> None:
    idle = (record(LS, 0.0, (0.02, 1), (0.3, 7), end_s=0.3),)
    late = record(LS, 1.0, (1.2, 1), (1.5, 10), end_s=1.5)
    fcfs = outcome(late, record(BE, 1.0, (2.0, 9), end_s=4.0))
    prompt = record(LS, 1.0, (1.03, 1), (1.33, 10), end_s=1.5)
    slow = record(LS, 2.0, (2.03, 1), (2.63, 10), end_s=2.7)
    qllm = outcome(prompt, slow, record(BE, 1.0, (2.0, 19), end_s=7.0), idle=idle)
    assert rows(fcfs, qllm) == [
        ["Latency-sensitive requests", "", "", ""],
        ["  first token, mean", "20.0 ms", "200.0 ms", "30.0 ms"],
        ["    p99", "20.0 ms", "200.0 ms", "30.0 ms"],
        ["    times idle", "1.0", "10.0", "1.5"],
        ["  time per token, mean", "40.0 ms", "30.0 ms", "45.0 ms"],
        ["    p99", "40.0 ms", "30.0 ms", "60.0 ms"],
        ["  within 1.5x idle, 50 ms a token", "100.0% of 1", "0.0% of 1", "50.0% of 2"],
        ["Best-effort work", "", "", ""],
        ["  tokens a second", "", "0.9", "1.9"],
        ["  answers", "", "1", "1"],
        ["Both: output tokens a second", "", "2", "4.1"],
    ]


def test_the_time_per_token_is_the_one_that_the_service_promises() -> None:
    made = replace(outcome(), facts=facts(tpot_ms="20"))
    assert made.targets == Targets(ttft_to_idle=1.5, tpot_ms=20.0)
    assert rows(outcome(), made)[6][0] == "  within 1.5x idle, 20 ms a token"
    promises_nothing = replace(outcome(), facts=facts(tpot_ms="0"))
    assert promises_nothing.targets.tpot_ms == 50.0


def test_stops_are_counted_wherever_in_the_model_they_were() -> None:
    assert outcome(num_preemptions_at_expert=3, num_preemptions_at_layer=2).num_stops == 5


def test_the_time_of_a_request_that_did_not_end_is_shown_as_a_lower_bound() -> None:
    waiting = record(LS, 1.0)
    waiting.give_up(9.0)
    assert rows(outcome(waiting), outcome())[1][1:] == ["- ms", "≥ 8,000 ms", "- ms"]
