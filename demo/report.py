"""The table at the end of the demo, and the verdict on the tokens. Pure but for the rich table."""

from collections.abc import Sequence
from dataclasses import dataclass

from qllm.client.bench.load.measurement import Measurement
from qllm.client.bench.load.record import RequestRow
from qllm.client.bench.load.target import TargetFacts
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.report.tables import NOTHING, number, statistic
from qllm.client.bench.results.spread import Spread
from qllm.client.bench.results.summary import Attainment, Objective, Ratios, Summary, Targets, summarize
from rich.table import Table

from demo.watched_target import Tokens


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the load came to under one policy.

    Attributes:
        facts: The service.
        tokens: Whole best-effort answers, those that ended outside the measuring window too.
    """

    facts: TargetFacts
    measurement: Measurement
    tokens: Tokens

    @property
    def summary(self) -> Summary:
        """Its figures."""
        return summarize(self.measurement, {LS: Objective(), BE: Objective()})

    @property
    def latency_sensitive(self) -> list[RequestRow]:
        """The latency-sensitive requests of the window."""
        return [row for row in self.measurement.rows if row.request_class is LS]

    @property
    def targets(self) -> Targets:
        """What latency-sensitive requests are to keep; the time per token is what the service promises, if it does."""
        tpot_ms = float(self.facts.details.get("ls_tpot_ms", 0))
        return Targets(tpot_ms=tpot_ms) if tpot_ms else Targets()

    @property
    def num_stops(self) -> int:
        """How often work was stopped inside the model, between layers or between the experts of one."""
        counters = self.measurement.counters
        return counters.get("num_preemptions_at_expert", 0) + counters.get("num_preemptions_at_layer", 0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs' outputs for the same best-effort prompts."""

    name: str
    num_compared: int
    different: tuple[int, ...]

    def __str__(self) -> str:
        """Says it in one line."""
        if self.different:
            return f"{self.name}: {len(self.different)} of {self.num_compared} DIFFER, prompts {list(self.different)}"
        if self.num_compared == 0:
            return f"{self.name}: nothing to compare, for no prompt was completed in both"
        return f"{self.name}: all {self.num_compared} identical"

    @property
    def is_proof(self) -> bool:
        """Whether outputs were compared and none differs."""
        return self.num_compared > 0 and not self.different


def compare(name: str, ours: Tokens, theirs: Tokens) -> Comparison:
    """Compares the tokens of the prompts that both runs completed."""
    common = sorted(ours.keys() & theirs.keys())
    different = tuple(index for index in common if ours[index] != theirs[index])
    return Comparison(name, len(common), different)


def results_table(fcfs: Outcome, qllm: Outcome) -> Table:
    """Returns the figures of both policies under the load, beside those of the idle service, which qllm's run has."""
    table = Table("", "idle", "fcfs", "qllm", title="Same model, same requests, same arrival times")
    for column in table.columns[1:]:
        column.justify = "right"
    idle, loaded = qllm.summary, (fcfs.summary, qllm.summary)
    ttfts = (idle.idle_ttft, *(one.ls.ttft for one in loaded))
    tpots = (idle.idle_tpot, *(one.ls.tpot for one in loaded))
    rows = (qllm.measurement.idle, fcfs.latency_sensitive, qllm.latency_sensitive)
    objective = qllm.targets.objective(qllm.measurement.idle)
    table.add_row("Latency-sensitive requests")
    table.add_row("  first token, mean", *(_ms(one, "mean_ms") for one in ttfts))
    table.add_row("    p99", *(_ms(one, "p99_ms") for one in ttfts))
    table.add_row("    times idle", *(_to_idle(one, idle.idle_ttft) for one in ttfts))
    table.add_row("  time per token, mean", *(_ms(one, "mean_ms") for one in tpots))
    table.add_row("    p99", *(_ms(one, "p99_ms") for one in tpots))
    table.add_row(f"  {_promise(qllm.targets)}", *(_attained(one, objective) for one in rows))
    table.add_row("Best-effort work")
    table.add_row("  tokens a second", "", *(number(one.be.tokens_per_s) for one in loaded))
    table.add_row("  answers", "", *(str(one.be.num_done) for one in loaded))
    table.add_row("Both: output tokens a second", "", *(number(one.tokens_per_s) for one in loaded))
    return table


def _promise(targets: Targets) -> str:
    return f"within {targets.ttft_to_idle:g}x idle, {targets.tpot_ms:g} ms a token"


def _attained(rows: Sequence[RequestRow], objective: Objective) -> str:
    attained = Attainment.of(rows, objective)
    if not attained.num_requests:
        return NOTHING
    return f"{attained.num_met / attained.num_requests:.1%} of {attained.num_requests}"


def _ms(spread: Spread | None, key: str) -> str:
    return f"{statistic(spread, key)} ms"


def _to_idle(spread: Spread | None, idle: Spread | None) -> str:
    ratios = Ratios.of(spread, idle)
    return f"{ratios.mean:.1f}" if ratios else NOTHING
