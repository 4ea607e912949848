import io

from rich.console import Console

from client.bench.load.measurement import Measurement, Window
from client.bench.load.record import RequestRecord
from client.bench.load.workload import BE, LS
from demo.report import Outcome, compare, results_table
from tests.unit.client.bench.samples import record


def outcome(*records: RequestRecord, idle: tuple[RequestRecord, ...] = (), **counters: int) -> Outcome:
    return Outcome(Measurement.of(idle, list(records), Window(0.0, 10.0), counters, {}), {})


def rows(fcfs: Outcome, qllm: Outcome) -> dict[str, list[str]]:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(results_table(fcfs, qllm))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    return {name: values for name, *values in filter(None, cells)}


def test_comparison_names_the_prompts_whose_tokens_differ() -> None:
    same = compare("a against b", {0: (1,), 1: (2,)}, {1: (2,), 2: (3,)})
    assert (str(same), same.is_proof) == ("a against b: all 1 identical", True)
    other = compare("a against b", {0: (1,), 1: (2,)}, {0: (1,), 1: (9,)})
    assert (str(other), other.is_proof) == ("a against b: 1 of 2 DIFFER, prompts [1]", False)


def test_comparing_nothing_proves_nothing() -> None:
    assert not compare("a against b", {0: (1,)}, {1: (1,)}).is_proof


def test_the_table_sets_both_policies_beside_the_idle_service() -> None:
    idle = (record(LS, 0.0, (0.02, 1), end_s=0.3),)
    fcfs = outcome(record(LS, 1.0, (1.2, 1), end_s=3.0), record(BE, 1.0, (2.0, 9), end_s=4.0))
    loaded = (record(LS, 1.0, (1.03, 1), end_s=1.5), record(BE, 1.0, (2.0, 19), end_s=7.0))
    qllm = outcome(*loaded, idle=idle, num_preemptions_at_expert=3, num_preemptions_at_layer=2)
    assert rows(fcfs, qllm) == {
        "LS time to first token, mean": ["20.0 ms", "200.0 ms", "30.0 ms"],
        "p99": ["20.0 ms", "200.0 ms", "30.0 ms"],
        "times idle": ["1.0", "10.0", "1.5"],
        "LS turnaround, mean": ["300.0 ms", "2,000 ms", "500.0 ms"],
        "BE turnaround, mean": ["", "3,000 ms", "6,000 ms"],
        "Output tokens per second": ["", "1", "2"],
        "Stops between experts": ["", "0", "3"],
        "Stops between layers": ["", "0", "2"],
        "LS / BE requests answered": ["1", "1 / 1", "1 / 1"],
    }


def test_the_time_of_a_request_that_did_not_end_is_shown_as_a_lower_bound() -> None:
    waiting = record(BE, 1.0)
    waiting.give_up(9.0)
    shown = rows(outcome(waiting), outcome())["BE turnaround, mean"]
    assert shown == ["", "≥ 8,000 ms", "- ms"]
