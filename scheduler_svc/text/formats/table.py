"""Which formats there are, and which one a model writes: its chat template shows that, or a setting says it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from scheduler_svc.text.formats import thoughts
from scheduler_svc.text.formats.bare_json import BareJson
from scheduler_svc.text.formats.calls import CallFormat
from scheduler_svc.text.formats.deepseek import DeepSeek
from scheduler_svc.text.formats.harmony import Harmony
from scheduler_svc.text.formats.hermes import Hermes
from scheduler_svc.text.formats.mistral import Mistral
from scheduler_svc.text.formats.tagged import GLM, QWEN_CODER, Tagged

AUTO, NONE = "auto", "none"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A format of calls.

    Attributes:
        shown_by: Texts of which one in a template shows that its model writes so.
        new: Makes it for a template.
    """

    shown_by: tuple[str, ...]
    new: Callable[[str], CallFormat]


# In the order in which they are looked for: what is special before what others have in them, too.
CALL_FORMATS: Mapping[str, _Entry] = MappingProxyType(
    {
        "harmony": _Entry(("<|channel|>",), lambda _: Harmony()),
        "deepseek": _Entry(("<｜tool▁call▁begin｜>",), DeepSeek),
        "mistral": _Entry(("[TOOL_CALLS]",), Mistral),
        "glm": _Entry(("<arg_key>",), lambda _: Tagged(GLM)),
        "qwen-coder": _Entry(("<function=",), lambda _: Tagged(QWEN_CODER)),
        "hermes": _Entry(("<tool_call>",), lambda _: Hermes()),
        "llama": _Entry(("<|python_tag|>", "ipython"), lambda _: BareJson()),
    }
)


class ReasoningFormat(StrEnum):
    """Where thoughts stand."""

    NONE = "none"
    THINK = "think"
    HARMONY = "harmony"


TOOL_PARSERS = (AUTO, NONE, *CALL_FORMATS)
REASONING_PARSERS = (AUTO, *ReasoningFormat)


@dataclass(frozen=True, slots=True)
class Formats:
    """How one model writes.

    Attributes:
        calls: None where it is not known how it calls functions.
        reasoning: Where its thoughts are.
    """

    calls: CallFormat | None = None
    reasoning: ReasoningFormat = ReasoningFormat.NONE

    @classmethod
    def of(cls, template: str, tool_parser: str = AUTO, reasoning_parser: str = AUTO) -> "Formats":
        """Returns the formats that the settings name, or the template shows."""
        name = _calls_in(template) if tool_parser == AUTO else tool_parser
        calls = CALL_FORMATS[name].new(template) if name in CALL_FORMATS else None
        if reasoning_parser != AUTO:
            return cls(calls, ReasoningFormat(reasoning_parser))
        if isinstance(calls, Harmony) or CALL_FORMATS["harmony"].shown_by[0] in template:
            return cls(calls, ReasoningFormat.HARMONY)
        is_thinking = any(word in template for word in thoughts.WORDS)
        return cls(calls, ReasoningFormat.THINK if is_thinking else ReasoningFormat.NONE)


UNKNOWN = Formats()


def _calls_in(template: str) -> str:
    shown = (name for name, entry in CALL_FORMATS.items() if any(text in template for text in entry.shown_by))
    return next(shown, NONE)
