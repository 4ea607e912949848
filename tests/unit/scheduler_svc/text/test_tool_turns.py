"""Which templates take functions, and in which way turns that call are given to them."""

from typing import Any

import pytest

from scheduler_svc.text.chat_format import ChatFormat, LostTurn, NoTools
from scheduler_svc.text.chat_template import ChatTemplate, ChatTemplateError, ChatTurn, Setting
from tests.support.models import chat_templates, tool_templates

HI, RAIN = ChatTurn("user", "hi"), ChatTurn("tool", "rain", more={"tool_call_id": "123456789"})
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": {}}}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def calling(*names: str, content: str = "") -> ChatTurn:
    calls: list[dict[str, Any]] = [
        {"id": "123456789", "type": "function", "function": {"name": name, "arguments": {"city": "Bonn"}}}
        for name in names
    ]
    return ChatTurn("assistant", content, more={"tool_calls": calls})


def format_of(source: str) -> ChatFormat:
    return ChatFormat(ChatTemplate(source, TOKENS))


def render(source: str, *turns: ChatTurn, **setting: Any) -> str:
    return format_of(source).render(turns, 10_000, Setting(**setting))


@pytest.mark.parametrize(
    ("source", "takes"),
    [
        (tool_templates.QWEN, True),
        (tool_templates.MISTRAL, True),
        (tool_templates.LLAMA_3, True),
        (tool_templates.DEEPSEEK_R1, True),
        (tool_templates.DEEPSEEK_PUBLISHED, False),
        (chat_templates.CHATML, False),
        (chat_templates.GEMMA, False),
        (chat_templates.MISTRAL, False),
        ("{% if tools %}{% endif %}{% for message in messages %}{{ message.content }}{% endfor %}", False),
        ("{{ tools | length }}", False),
    ],
)
def test_a_template_takes_functions_if_it_writes_them(source: str, takes: bool) -> None:
    assert format_of(source).takes_tools is takes


def test_functions_that_a_template_does_not_take_are_refused_where_they_are_needed() -> None:
    with pytest.raises(NoTools):
        render(chat_templates.CHATML, HI, tools=[TOOL], needs_tools=True)
    assert render(chat_templates.CHATML, HI, tools=[TOOL]) == render(chat_templates.CHATML, HI)


@pytest.mark.parametrize(
    ("source", "written"),
    [
        (tool_templates.QWEN, '{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'),
        (tool_templates.MISTRAL, '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Bonn"}}]</s>'),
        (tool_templates.LLAMA_3, '{"name": "weather", "parameters": {"city": "Bonn"}}'),
        (tool_templates.DEEPSEEK_R1, 'function<｜tool▁sep｜>weather\n```json\n{"city": "Bonn"}\n```'),
    ],
)
def test_calls_and_their_results_are_written_as_the_model_was_trained(source: str, written: str) -> None:
    text = render(source, HI, calling("weather"), RAIN, tools=[TOOL])
    assert written in text
    assert "rain" in text


def test_a_turn_whose_calls_would_be_dropped_is_refused() -> None:
    with pytest.raises(LostTurn) as lost:
        render(chat_templates.CHATML, HI, calling("weather", content="I look."), RAIN)
    assert (lost.value.index, lost.value.call_words) == (1, "writes no calls into the prompt")


def test_what_is_said_beside_calls_may_be_dropped_as_the_model_was_trained() -> None:
    text = render(tool_templates.LLAMA_3, HI, calling("weather", content="I look."), RAIN)
    assert '"name": "weather"' in text
    assert "I look." not in text


def test_what_the_template_says_of_several_calls_is_told() -> None:
    with pytest.raises(ChatTemplateError, match="single tool-calls"):
        render(tool_templates.LLAMA_3, HI, calling("weather", "time"), RAIN)


def test_variables_reach_the_template_and_never_take_the_place_of_its_own() -> None:
    source = "{{ bos_token }}{{ enable_thinking }}{% for message in messages %}{{ message.content }}{% endfor %}"
    assert render(source, HI, variables={"enable_thinking": False, "bos_token": "x", "messages": []}) == "<s>Falsehi"


def test_the_last_turn_is_continued_where_it_is_written_as_it_is() -> None:
    turns = (HI, ChatTurn("assistant", " Once upon "))
    text = render(chat_templates.CHATML, *turns, begins_answer=False, continues=True)
    assert text.endswith("<|im_start|>assistant\n Once upon")
    upper = "{% for message in messages %}{{ message.content | upper }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="continued"):
        render(upper, *turns, begins_answer=False, continues=True)


CONCATENATED = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}CALL{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("call", "written"),
    [
        ("c.function.name + c.function.arguments", 'weather{"city": "Bonn"}'),
        ("c.function.name ~ c.function.arguments", 'weather{"city": "Bonn"}'),
        ("c.function.name + c.function.arguments | tojson", 'weather{"city": "Bonn"}'),
        ("c.function.name + c.function.arguments.items() | map('join', '=') | join", "weathercity=Bonn"),
        (
            "c.function.name + (c.function.arguments if c.function.arguments is string"
            " else c.function.arguments | tojson)",
            'weather{"city": "Bonn"}',
        ),
    ],
)
def test_arguments_are_an_object_or_a_text_as_the_template_writes_them(call: str, written: str) -> None:
    source = CONCATENATED.replace("CALL", "{{ " + call + " }}")
    assert written in render(source, HI, calling("weather"), RAIN)


def test_what_is_told_of_calls_that_a_template_writes_only_without_a_text_is_true() -> None:
    turns = (HI, calling("weather", content="I look."), RAIN)
    with pytest.raises(LostTurn) as lost:
        render(tool_templates.DEEPSEEK_PUBLISHED, *turns)
    assert lost.value.call_words == "drops the calls of a turn that has a text, too"


def test_a_failure_of_the_template_is_told_where_its_calls_are_lost() -> None:
    source = (
        "{% for m in messages %}{% if m.content is none %}{{ m.tool_calls[0].function.name + 1 }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(LostTurn) as lost:
        render(source, HI, calling("weather"), RAIN)
    assert lost.value.call_words.endswith("it fails: TypeError in the template")


@pytest.mark.parametrize("mark", ["qz0zq", "qc1cq", "qz" + 5000 * "1" + "zq", "qc" + 5000 * "1" + "cq", "qtoolq"])
def test_a_callers_text_is_never_taken_for_a_turn_that_was_written(mark: str) -> None:
    """The template writes the arguments of calls, and drops users and the names of functions."""
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}"
        "{% endfor %}"
    )
    turn = calling("weather")
    turn.more["tool_calls"][0]["function"]["arguments"]["city"] = mark
    with pytest.raises(LostTurn) as lost:
        render(source, HI, turn)
    assert lost.value.index == 0
    assert mark in render(tool_templates.QWEN, HI, turn)
