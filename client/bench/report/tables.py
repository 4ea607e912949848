"""Which figures are shown, in which order and in which units. Pure."""

from collections.abc import Callable, Mapping, Sequence

from qllm.client.bench.report.grid import Grid
from qllm.client.bench.results.result_file import Result
from qllm.client.bench.results.spread import Spread
from qllm.client.bench.results.summary import MAX_LAG_MS, ClassSummary, Ratios, Summary

_STATISTICS = (("mean", "mean_ms"), ("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"), ("max", "max_ms"))
NOTHING = "-"


def result_grids(result: Result) -> list[Grid]:
    """Returns the tables of one result."""
    grids = [_class_grid(result), _total_grid(result)]
    if result.counters:
        grids.append(_server_grid(result.counters, result.summary.seconds))
    if result.summary.failures:
        grids.append(_failure_grid(result))
    return grids


def comparison_grid(results: Sequence[Result]) -> Grid:
    """Returns the main figures of several results side by side."""
    summaries = [result.summary for result in results]
    rows: list[tuple[str, Callable[[Summary], str]]] = [
        ("LS TTFT idle, mean ms", lambda one: statistic(one.idle_ttft, "mean_ms")),
        *((f"LS TTFT, {name} ms", _picked(lambda one: one.ls.ttft, key)) for name, key in _STATISTICS),
        ("LS TTFT loaded / idle, mean", lambda one: _mean_ratio(one.ttft_to_idle)),
        ("LS TPOT, mean ms", lambda one: statistic(one.ls.tpot, "mean_ms")),
        ("LS turnaround, mean ms", lambda one: statistic(one.ls.turnaround, "mean_ms")),
        ("LS turnaround, p99 ms", lambda one: statistic(one.ls.turnaround, "p99_ms")),
        ("LS turnaround loaded / idle, mean", lambda one: _mean_ratio(one.turnaround_to_idle)),
        ("BE TTFT, mean ms", lambda one: statistic(one.be.ttft, "mean_ms")),
        ("BE turnaround, mean ms", lambda one: statistic(one.be.turnaround, "mean_ms")),
        ("BE output tokens/s", lambda one: number(one.be.tokens_per_s)),
        ("Output tokens/s", lambda one: number(one.tokens_per_s)),
        ("Requests/s", lambda one: number(one.requests_per_s)),
        ("LS SLO attainment", lambda one: _attainment(one.ls)),
        (
            "Failed / unfinished",
            lambda one: f"{sum(one.failures.values())} / {one.ls.num_unfinished + one.be.num_unfinished}",
        ),
    ]
    header = ("", *(result.label for result in results))
    return Grid("Side by side", header, tuple((name, *map(shown, summaries)) for name, shown in rows))


def warnings(result: Result) -> list[str]:
    """Returns what the reader must know before trusting the figures."""
    summary = result.summary
    found = []
    if result.is_interrupted:
        found.append(f"ended early by the user, after {summary.seconds:.1f} s of the window")
    if not result.rows:
        found.append("no request was to be sent within the window: make it longer, or the rate higher")
    if summary.lag_p99_ms is not None and summary.lag_p99_ms > MAX_LAG_MS:
        found.append(
            f"this process sent requests up to {summary.lag_p99_ms:.0f} ms late (p99): it lacks processor time, "
            "and latencies hold that too"
        )
    num_unfinished = summary.ls.num_unfinished + summary.be.num_unfinished
    if num_unfinished:
        found.append(
            f"{num_unfinished} requests of the window had not ended when it was over; they count with the time that "
            "they had waited, as lower bounds"
        )
    if summary.failures:
        found.append(f"{sum(summary.failures.values())} requests of the window failed; they count in no latency")
    return found


def number(value: float | None) -> str:
    """Shows a number with three or more significant digits."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def times(value: float | None) -> str:
    """Shows a ratio."""
    return NOTHING if value is None else f"{value:.2f}x" if value < 10 else f"{value:.1f}x"


def share(value: float | None) -> str:
    """Shows a share of a whole."""
    return NOTHING if value is None else f"{value:.1%}"


def _class_grid(result: Result) -> Grid:
    summary = result.summary
    ls, be = summary.ls, summary.be
    rows: list[tuple[str, ...]] = [
        ("requests done", str(len(result.idle) or NOTHING), str(ls.num_done), "", str(be.num_done)),
        (
            "failed / unfinished",
            "",
            f"{ls.num_failed} / {ls.num_unfinished}",
            "",
            f"{be.num_failed} / {be.num_unfinished}",
        ),
        *_spread_rows("TTFT", summary.idle_ttft, ls.ttft, be.ttft, summary.ttft_to_idle),
        *_spread_rows("TPOT", summary.idle_tpot, ls.tpot, be.tpot, None),
        *_spread_rows("gap between chunks", None, ls.gap, be.gap, None),
        *_spread_rows("turnaround", summary.idle_turnaround, ls.turnaround, be.turnaround, summary.turnaround_to_idle),
        *_spread_rows("queue time (server)", None, ls.queue, be.queue, None),
        ("output tokens/s", "", number(ls.tokens_per_s), "", number(be.tokens_per_s)),
        ("requests/s", "", number(ls.requests_per_s), "", number(be.requests_per_s)),
        ("tokens per chunk", "", number(ls.tokens_per_chunk), "", number(be.tokens_per_chunk)),
    ]
    if ls.goodput or be.goodput:
        rows += [
            ("SLO attainment", "", _attainment(ls), "", _attainment(be)),
            ("  TTFT alone", "", share(_part(ls, "ttft")), "", share(_part(be, "ttft"))),
            ("  TPOT alone", "", share(_part(ls, "tpot")), "", share(_part(be, "tpot"))),
            ("goodput, requests/s", "", *_goodputs(ls, be, "requests_per_s")),
            ("goodput, tokens/s", "", *_goodputs(ls, be, "tokens_per_s")),
        ]
    header = ("times in ms", "LS idle", "LS", "LS / idle", "BE")
    return Grid(f"{result.label}: latency-sensitive (LS) and best-effort (BE)", header, tuple(rows))


def _spread_rows(
    name: str, idle: Spread | None, ls: Spread | None, be: Spread | None, ratios: Ratios | None
) -> list[tuple[str, ...]]:
    if ls is None and be is None:
        return [(name, NOTHING, NOTHING, NOTHING, NOTHING)]
    rows: list[tuple[str, ...]] = []
    for position, (kind, key) in enumerate(_STATISTICS):
        label = f"{name}, {kind}" if position == 0 else f"  {kind}"
        ratio = getattr(ratios, kind, None)
        rows.append(
            (label, statistic(idle, key), statistic(ls, key), times(ratio) if ratio else "", statistic(be, key))
        )
    return rows


def _total_grid(result: Result) -> Grid:
    summary = result.summary
    lag = NOTHING if summary.lag_p99_ms is None else f"{summary.lag_p99_ms:.1f} ms"
    rows = (
        ("window", f"{summary.seconds:.1f} s"),
        ("output tokens/s, all that came", number(summary.tokens_per_s)),
        ("output tokens/s, of finished requests", number(summary.finished_tokens_per_s)),
        ("prompt tokens/s", number(summary.prompt_tokens_per_s)),
        ("requests/s", number(summary.requests_per_s)),
        ("requests sent late by, p99", lag),
    )
    return Grid("In all", ("", ""), rows)


def _server_grid(counters: Mapping[str, int], seconds: float) -> Grid:
    """Shows what a QLLM service counted; counters that it does not have are left out."""
    shares = (
        ("worker busy / window", "busy_ns", seconds * 1e9),
        ("worker idle for control / busy", "control_idle_ns", counters.get("busy_ns", 0)),
        ("BE share of worker time", "be_busy_ns", counters.get("be_busy_ns", 0) + counters.get("ls_busy_ns", 0)),
    )
    rows = [(name, f"{counters[key] / whole:.2%}") for name, key, whole in shares if key in counters and whole > 0]
    if counters.get("num_iterations"):
        rows.append(("commands per iteration", f"{counters.get('num_commands', 0) / counters['num_iterations']:.1f}"))
    plain = {name: value for name, value in counters.items() if name.startswith("num_")}
    rows += [(name.removeprefix("num_").replace("_", " "), f"{value:,}") for name, value in plain.items()]
    return Grid("The service's own counters, in the window", ("", ""), tuple(rows))


def _failure_grid(result: Result) -> Grid:
    rows = tuple((kind, str(count), result.messages.get(kind, "")) for kind, count in result.summary.failures.items())
    return Grid("Failures", ("kind", "requests", "first message"), rows)


def _picked(choose: Callable[[Summary], Spread | None], key: str) -> Callable[[Summary], str]:
    return lambda summary: statistic(choose(summary), key)


def statistic(spread: Spread | None, key: str) -> str:
    """Shows a statistic; a figure that lower bounds went into is at least as long as it says."""
    if spread is None:
        return NOTHING
    return ("≥ " if spread.num_lower_bounds else "") + number(getattr(spread, key))


def _mean_ratio(ratios: Ratios | None) -> str:
    return times(ratios.mean if ratios else None)


def _attainment(summary: ClassSummary) -> str:
    return share(summary.goodput.attainment if summary.goodput else None)


def _part(summary: ClassSummary, part: str) -> float | None:
    attainment: float | None = getattr(summary.goodput, f"{part}_attainment", None)
    return attainment


def _goodputs(ls: ClassSummary, be: ClassSummary, key: str) -> tuple[str, str, str]:
    shown = [number(getattr(one.goodput, key)) if one.goodput else NOTHING for one in (ls, be)]
    return shown[0], "", shown[1]
