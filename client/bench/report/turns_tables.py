"""Tables of what several ways came to in turns. Pure."""

from collections.abc import Sequence

from qllm.client.bench.report.grid import Grid
from qllm.client.bench.results.turns import Figure, Turns


def turns_grid(title: str, turns: Turns, figures: Sequence[Figure]) -> Grid:
    """Returns means over rounds with their standard errors; a row for each figure that any way has."""
    rows = []
    for figure in figures:
        means = [turns.mean(label, figure.name) for label in turns.labels]
        if any(mean is not None for mean in means):
            rows.append((figure.title, *("-" if mean is None else mean.text(figure.digits) for mean in means)))
    return Grid(title, ("", *turns.labels), tuple(rows))


def ratios_grid(title: str, turns: Turns, figures: Sequence[Figure], base: str) -> Grid | None:
    """Returns how many times as large each compared figure is as one way's, by round; None if there is no other way."""
    others = [label for label in turns.labels if label != base]
    if not others or base not in turns.by_label:
        return None
    rows = []
    for figure in figures:
        if figure.is_compared:
            ratios = [turns.ratio(label, base, figure.name) for label in others]
            if not any(ratios):
                continue
            rows.append((figure.title, *("-" if ratio is None else f"{ratio.text(3)}x" for ratio in ratios)))
    return Grid(title, (f"over {base}", *others), tuple(rows))
