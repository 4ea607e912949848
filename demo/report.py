"""The table at the end of the demo, and the verdict on the tokens. Pure but for the rich table."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table

from client import GenerationResult
from demo.load import BE, LS, Window
from demo.spread import ttft, turnaround

Answers = Mapping[int, GenerationResult]


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


def compare(name: str, ours: Answers, theirs: Answers) -> Comparison:
    """Compares the tokens of the prompts that both runs completed."""
    common = sorted(ours.keys() & theirs.keys())
    different = tuple(index for index in common if ours[index].token_ids != theirs[index].token_ids)
    return Comparison(name, len(common), different)


def results_table(idle: Answers, fcfs: Window, qllm: Window) -> Table:
    """Returns the figures of the idle service and of both policies under the load."""
    table = Table("", "idle", "fcfs", "qllm", title="Same model, same requests, same arrival times")
    for column in table.columns[1:]:
        column.justify = "right"
    idle_ttft, idle_turnaround = ttft(idle.values()), turnaround(idle.values())
    ttfts = [ttft(window.answers[LS].values()) for window in (fcfs, qllm)]
    ls_turnarounds = [turnaround(window.answers[LS].values()) for window in (fcfs, qllm)]
    be_turnarounds = [turnaround(window.answers[BE].values()) for window in (fcfs, qllm)]
    table.add_row("LS time to first token, mean", *(f"{spread.mean_ms:.0f} ms" for spread in (idle_ttft, *ttfts)))
    table.add_row("  p99", *(f"{spread.p99_ms:.0f} ms" for spread in (idle_ttft, *ttfts)))
    table.add_row("  times idle", "1.0", *(f"{spread.mean_ms / idle_ttft.mean_ms:.1f}" for spread in ttfts))
    table.add_row("LS turnaround, mean", *(f"{spread.mean_ms:.0f} ms" for spread in (idle_turnaround, *ls_turnarounds)))
    table.add_row("BE turnaround, mean", "", *(f"{spread.mean_ms:.0f} ms" for spread in be_turnarounds))
    table.add_row("Output tokens per second", "", *(f"{_tokens_per_s(window):.0f}" for window in (fcfs, qllm)))
    table.add_row("Stops between experts", "", *(str(at_expert(window)) for window in (fcfs, qllm)))
    table.add_row("Stops between layers", "", *(str(at_layer(window)) for window in (fcfs, qllm)))
    table.add_row("LS / BE requests answered", str(len(idle)), *(_counts(window) for window in (fcfs, qllm)))
    return table


def at_expert(window: Window) -> int:
    """Returns how often work was stopped between two experts of a layer."""
    return window.after.num_preemptions_at_expert - window.before.num_preemptions_at_expert


def at_layer(window: Window) -> int:
    """Returns how often work was stopped between two layers."""
    return window.after.num_preemptions_at_layer - window.before.num_preemptions_at_layer


def _tokens_per_s(window: Window) -> float:
    return window.num_tokens.total() / window.seconds


def _counts(window: Window) -> str:
    return f"{len(window.answers[LS])} / {len(window.answers[BE])}"
