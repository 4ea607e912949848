"""The settings that say in which formats a model writes calls and thoughts."""

from dataclasses import dataclass
from typing import Annotated

from qllm.settings import SERVING, Setting

from scheduler_svc.text.formats.table import AUTO, REASONING_PARSERS, TOOL_PARSERS, Formats


@dataclass(frozen=True, slots=True)
class FormatSettings:
    """In which formats the model writes."""

    tool_parser: Annotated[
        str,
        Setting(choices=TOOL_PARSERS, panel=SERVING),
        "Says in which format the model writes calls of functions. With auto its chat template shows that; with none "
        "it is not known, and answers call functions only where the request says that they must.",
    ] = AUTO
    reasoning_parser: Annotated[
        str,
        Setting(choices=REASONING_PARSERS, panel=SERVING),
        "Says where the model writes its thoughts, which answers then have apart from their text: think is between "
        "<think> and </think>, harmony in channels. With auto its chat template shows that; with none they are text.",
    ] = AUTO

    def formats_of(self, template: str) -> Formats:
        """Returns the formats of a model with this chat template."""
        return Formats.of(template, self.tool_parser, self.reasoning_parser)


DEFAULT_FORMATS = FormatSettings()
