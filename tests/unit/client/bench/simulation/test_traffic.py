from dataclasses import replace

from qllm.client.bench.load.trace import Trace, TraceRow
from qllm.client.bench.simulation.traffic import Mix, MixedLoad, ReplayedTrace, with_share


def test_traffic_is_fixed_by_its_seed() -> None:
    assert Mix(seed=3).rows() == Mix(seed=3).rows()
    assert Mix(seed=3).rows() != Mix(seed=4).rows()


def test_changing_the_share_changes_neither_arrivals_nor_lengths() -> None:
    few, many = Mix(ls_share=0.1).rows(), with_share(Mix(), 0.6).rows()
    assert [(at_s, prompt, output) for at_s, _, prompt, output in few] == [(a, p, o) for a, _, p, o in many]
    assert sum(name == "ls" for _, name, _, _ in few) < sum(name == "ls" for _, name, _, _ in many)


def test_rate_share_and_lengths_are_those_asked_for() -> None:
    rows = Mix(rate_per_s=20.0, seconds=1000.0, ls_share=0.2, max_output_tokens=100_000).rows()
    assert 0.95 < len(rows) / 20_000 < 1.05
    assert 0.18 < sum(name == "ls" for _, name, _, _ in rows) / len(rows) < 0.22
    assert 150 < sum(prompt for _, _, prompt, _ in rows) / len(rows) < 172  # ShareGPT's 161
    assert 320 < sum(output for _, _, _, output in rows) / len(rows) < 356  # and 338


def test_outputs_are_cut_and_best_effort_prompts_can_be_set() -> None:
    rows = replace(Mix(), be_prompt_tokens=4096, max_output_tokens=20).rows()
    assert max(output for _, _, _, output in rows) == 20
    assert {prompt for _, name, prompt, _ in rows if name == "be"} == {4096}
    assert {prompt for _, name, prompt, _ in rows if name == "ls"} != {4096}


def test_a_replayed_trace_keeps_its_lengths_and_scales_its_times() -> None:
    trace = Trace.of([TraceRow(float(i), 10 + i, 5) for i in range(50)])
    rows = ReplayedTrace(trace, "some.csv", time_scale=2.0, ls_share=0.5).rows()
    assert [(at_s, prompt) for at_s, _, prompt, _ in rows] == [(2.0 * i, 10 + i) for i in range(50)]
    assert {name for _, name, _, _ in rows} == {"ls", "be"}


def test_the_mixed_load_lists_who_comes_at_random_times_and_describes_who_never_pauses() -> None:
    load = MixedLoad(ls_rate_per_s=2.0, seconds=500.0, warm_up_s=10.0)
    rows = load.rows()
    assert rows == MixedLoad(ls_rate_per_s=2.0, seconds=500.0, warm_up_s=10.0).rows()
    assert 0.9 < len(rows) / 1020 < 1.1
    assert {row[1:] for row in rows} == {("ls", 80, 16)}
    assert load.closed_loop()["until_s"] == 510.0
