"""Which figures of a search for goodput are shown, and how. Pure."""

from collections.abc import Sequence

from qllm.client.bench.report.grid import Grid
from qllm.client.bench.report.tables import NOTHING, number, share, statistic, times
from qllm.client.bench.results.goodput import Level, ServerGoodput
from qllm.client.bench.results.spread import Spread
from qllm.client.bench.results.summary import MAX_LAG_MS


def goodput_grids(servers: Sequence[ServerGoodput]) -> list[Grid]:
    """Returns two tables of each server's levels, and the one that sets the servers side by side."""
    return [grid for server in servers for grid in (_kept_grid(server), _made_grid(server))] + [_side_by_side(servers)]


def level_line(server: str, level: Level) -> str:
    """Says in one line what a level came to."""
    told = f"{share(level.share)} of {level.attainment.num_requests} LS requests keep both targets"
    holds = {"yes": "holds", "no": "does not hold"}.get(verdict(level), f"holds: {verdict(level)}")
    return f"{server}, {clients(level.num_be_clients)}: {told}, {number(level.be_tokens_per_s)} BE tokens/s; {holds}"


def clients(count: int) -> str:
    """Says how many best-effort clients there are."""
    return "1 BE client" if count == 1 else f"{count} BE clients"


def verdict(level: Level) -> str:
    """Says whether a level holds, and whether that is sure."""
    if not level.is_decided:
        return "not known yet"
    if level.is_sure:
        return "yes" if level.holds else "no"
    return "probably" if level.holds else "probably not"


def warnings(server: ServerGoodput) -> list[str]:
    """Returns what the reader must know before trusting the figures."""
    found = []
    if server.is_interrupted:
        found.append("ended early by the user: its goodput is that of the levels that were measured by then")
    lags_ms = [level.lag_p99_ms for level in server.levels if level.lag_p99_ms is not None]
    if max(lags_ms, default=0.0) > MAX_LAG_MS:
        found.append(
            f"this process sent requests up to {max(lags_ms):.0f} ms late (p99): it lacks processor time, and first "
            "tokens hold that too"
        )
    if any(level.is_decided and not level.attainment.num_requests for level in server.levels):
        found.append(
            "no LS request was to be sent in all windows of a level: make --seconds longer, or --ls-rate higher"
        )
    kinds = {kind: message for level in server.levels for kind, message in _failures(server, level).items()}
    found += [f"requests failed: {kind}: {message}" for kind, message in kinds.items()]
    return found


def promise(server: ServerGoodput) -> str:
    """Says which targets a request is to keep, in the server's own milliseconds."""
    idle = server.objective.ttft_ms
    first = f" = {number(idle)} ms" if idle is not None else ""
    targets = server.targets
    return f"TTFT within {targets.ttft_to_idle:g}x idle{first}, TPOT within {targets.tpot_ms:g} ms"


def _failures(server: ServerGoodput, level: Level) -> dict[str, str]:
    return {kind: server.messages.get(kind, "") for kind in level.failures}


def _kept_grid(server: ServerGoodput) -> Grid:
    header = ("clients", "windows", "LS", "TTFT", "TPOT", "both", "95 %", "holds")
    return Grid(f"{server.label}: LS requests with {promise(server)}", header, tuple(map(_kept_row, _sorted(server))))


def _kept_row(level: Level) -> tuple[str, ...]:
    attained = level.attainment
    parts = (attained.num_ttft_met, attained.num_tpot_met, attained.num_met)
    return (
        str(level.num_be_clients),
        str(level.num_windows),
        str(attained.num_requests),
        *(share(met / attained.num_requests if attained.num_requests else None) for met in parts),
        f"{_percent(level.low)}-{_percent(level.high)}",
        verdict(level),
    )


def _made_grid(server: ServerGoodput) -> Grid:
    header = ("clients", "BE tokens/s", "all tokens/s", "LS TTFT, ms", "LS TPOT, ms")
    idle = ("idle", NOTHING, NOTHING, _mean_and_p99(server.idle_ttft), _mean_and_p99(server.idle_tpot))
    rows = (
        (
            str(level.num_be_clients),
            _rate(level),
            number(level.tokens_per_s),
            _mean_and_p99(level.ttft),
            _mean_and_p99(level.tpot),
        )
        for level in _sorted(server)
    )
    return Grid(f"{server.label}: what BE clients make, and LS times, mean / p99", header, (idle, *rows))


def _sorted(server: ServerGoodput) -> list[Level]:
    return sorted(server.levels, key=lambda level: level.num_be_clients)


def _side_by_side(servers: Sequence[ServerGoodput]) -> Grid:
    first = servers[0]
    header = ("", "BE tokens/s", f"to {first.label}", "clients", "fails from", "LS alone")
    rows = tuple(
        (
            server.label,
            _rate(server.best) if server.best else "0",
            times(server.tokens_per_s / first.tokens_per_s if first.tokens_per_s else None),
            str(server.best.num_be_clients) if server.best else NOTHING,
            str(server.failed.num_be_clients) if server.failed else NOTHING,
            share(server.alone.share if server.alone else None),
        )
        for server in servers
    )
    title = f"Goodput: the most BE tokens/s while {first.goal * 100:g} % of LS requests keep both targets"
    return Grid(title, header, rows)


def _rate(level: Level) -> str:
    error = level.be_tokens_per_s_error
    return number(level.be_tokens_per_s) + (f" ± {number(error)}" if error else "")


def _percent(value: float) -> str:
    return f"{value * 100:.1f}".removesuffix(".0")


def _mean_and_p99(spread: Spread | None) -> str:
    return f"{statistic(spread, 'mean_ms')} / {statistic(spread, 'p99_ms')}"
