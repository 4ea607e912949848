"""Settings of every kind, for tests of what is made of them."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from qllm.config_file import CONFIG_HELP, ConfigFile
from qllm.settings import MODEL, SCHEDULING, Setting


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    wait_s: Annotated[
        float, Setting(0, 60_000, option="max-wait-ms", scale=1e3, panel=SCHEDULING), "Limits the wait."
    ] = 0.005
    share: Annotated[float, Setting(0, 0.9, panel=SCHEDULING), "Sets the share."] = 0.5
    lead_s: float = 0.001


@dataclass(frozen=True, slots=True)
class Sample:
    rest: Annotated[tuple[str, ...], Setting(is_argument=True), "Passes words on."] = ()
    name: Annotated[str | None, Setting(panel=MODEL, unset="nobody"), "Names it."] = None
    count: Annotated[int, Setting(1, 9), "Counts."] = 3
    least: Annotated[int, Setting(2), "Counts from two."] = 2
    colour: Annotated[Colour, Setting(), "Paints it."] = Colour.RED
    shape: Annotated[str, Setting(choices=("round", "square")), "Shapes it."] = "round"
    file: Annotated[Path | None, Setting(), "Names a file."] = None
    tags: Annotated[tuple[str, ...], Setting(option="tag"), "Tags it."] = ()
    fast: Annotated[bool, Setting(), "Hurries."] = False
    inner: Inner = field(default_factory=Inner)
    config_file: Annotated[Path | None, ConfigFile(option="config", table="scheduler"), CONFIG_HELP] = None
    shared_file: Annotated[
        Path | None, ConfigFile(option="shared-config", table="scheduler", is_shared=True, hidden=True)
    ] = None
