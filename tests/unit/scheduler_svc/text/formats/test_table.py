"""Which format a model writes in, by its chat template or by settings."""

import pytest
from qllm.settings import SettingRefused, check

from scheduler_svc.text.formats.bare_json import BareJson
from scheduler_svc.text.formats.deepseek import DeepSeek
from scheduler_svc.text.formats.hermes import Hermes
from scheduler_svc.text.formats.mistral import Mistral
from scheduler_svc.text.formats.settings import FormatSettings
from scheduler_svc.text.formats.table import Formats, ReasoningFormat
from tests.support.models import chat_templates, tool_templates

THINK, NONE = ReasoningFormat.THINK, ReasoningFormat.NONE


@pytest.mark.parametrize(
    ("template", "kind", "reasoning"),
    [
        (tool_templates.QWEN, Hermes, THINK),
        (tool_templates.QWEN_THINKING, Hermes, THINK),
        (tool_templates.MISTRAL, Mistral, NONE),
        (tool_templates.LLAMA_3, BareJson, NONE),
        (tool_templates.DEEPSEEK_R1, DeepSeek, NONE),
        (chat_templates.CHATML, type(None), NONE),
        (chat_templates.DEEPSEEK, type(None), THINK),
        ("", type(None), NONE),
        ("<|channel|>", object, ReasoningFormat.HARMONY),
    ],
)
def test_a_template_shows_its_format(template: str, kind: type, reasoning: ReasoningFormat) -> None:
    formats = Formats.of(template)
    assert isinstance(formats.calls, kind)
    assert formats.reasoning is reasoning


def test_settings_say_more_than_the_template() -> None:
    of_qwen = FormatSettings(tool_parser="mistral", reasoning_parser="none").formats_of(tool_templates.QWEN)
    assert isinstance(of_qwen.calls, Mistral)
    assert of_qwen.reasoning is NONE
    nothing = FormatSettings(tool_parser="none").formats_of(tool_templates.QWEN)
    assert (nothing.calls, nothing.reasoning) == (None, THINK)
    assert FormatSettings(reasoning_parser="think").formats_of("").reasoning is THINK


def test_a_format_that_there_is_not_is_refused() -> None:
    with pytest.raises(SettingRefused, match=r"--tool-parser.*hermes"):
        check(FormatSettings(tool_parser="parrot"))
