"""Says which processor this is, as far as the system knows it."""

import platform
from pathlib import Path

_FIELDS = {"model name": "", "cpu family": "family ", "model": "model "}


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the processor's name, with family and model, which tell those of one name apart."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines}
    parts = [f"{prefix}{found[name]}" for name, prefix in _FIELDS.items() if found.get(name)]
    return ", ".join(parts) or platform.machine()
