"""How numbers are written, in tables and in JSON."""

from collections.abc import Mapping

_DIGITS = 3


def shown(value: object) -> str:
    """Returns a value with as many digits as one reads, and a truth as a word."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def share(part: int, whole: int, without: str = "") -> str:
    """Returns how much of the whole the part is; `without` where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else without


def share_of(part: int, whole: int) -> str:
    """Returns how much of how many the part is."""
    return f"{100 * part / whole:.2f} % of {whole:,}" if whole else "none yet"


def rounded(time: float) -> float:
    """Returns a time as it stands in JSON: its last digits mean nothing."""
    return round(time, _DIGITS)


def rounded_values(counts: Mapping[str, float]) -> dict[str, float]:
    """Returns counts as they are, and times rounded."""
    return {name: rounded(value) if isinstance(value, float) else value for name, value in counts.items()}
