"""The table at the end of the demo, and the verdict on the tokens. Pure but for the rich table."""

from dataclasses import dataclass

from rich.table import Table

from client.bench.load.measurement import Measurement
from client.bench.load.workload import BE, LS
from client.bench.report.tables import NOTHING, statistic
from client.bench.results.spread import Spread
from client.bench.results.summary import Objective, Ratios, Summary, summarize
from demo.watched_target import Tokens


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the load came to under one policy.

    Attributes:
        tokens: Whole best-effort answers, those that ended outside the measuring window too.
    """

    measurement: Measurement
    tokens: Tokens

    @property
    def summary(self) -> Summary:
        """Its figures."""
        return summarize(self.measurement, {LS: Objective(), BE: Objective()})

    @property
    def num_stops_at_experts(self) -> int:
        """How often work was stopped between two experts of a layer, within the window."""
        return self.measurement.counters.get("num_preemptions_at_expert", 0)

    @property
    def num_stops_at_layers(self) -> int:
        """How often work was stopped between two layers, within the window."""
        return self.measurement.counters.get("num_preemptions_at_layer", 0)


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
    turnarounds = (idle.idle_turnaround, *(one.ls.turnaround for one in loaded))
    table.add_row("LS time to first token, mean", *(_ms(one, "mean_ms") for one in ttfts))
    table.add_row("  p99", *(_ms(one, "p99_ms") for one in ttfts))
    table.add_row("  times idle", *(_to_idle(one, idle.idle_ttft) for one in ttfts))
    table.add_row("LS turnaround, mean", *(_ms(one, "mean_ms") for one in turnarounds))
    table.add_row("BE turnaround, mean", "", *(_ms(one.be.turnaround, "mean_ms") for one in loaded))
    table.add_row("Output tokens per second", "", *(f"{one.tokens_per_s:.0f}" for one in loaded))
    table.add_row("Stops between experts", "", *(str(one.num_stops_at_experts) for one in (fcfs, qllm)))
    table.add_row("Stops between layers", "", *(str(one.num_stops_at_layers) for one in (fcfs, qllm)))
    table.add_row(
        "LS / BE requests answered",
        str(len(qllm.measurement.idle)),
        *(f"{one.ls.num_done} / {one.be.num_done}" for one in loaded),
    )
    return table


def _ms(spread: Spread | None, key: str) -> str:
    return f"{statistic(spread, key)} ms"


def _to_idle(spread: Spread | None, idle: Spread | None) -> str:
    ratios = Ratios.of(spread, idle)
    return f"{ratios.mean:.1f}" if ratios else NOTHING
