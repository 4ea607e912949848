"""Conversations are rendered as transformers renders them, and a template cannot do harm."""

import pytest

from scheduler_svc.text.chat_template import ChatTemplate, ChatTemplateError, ChatTurn
from tests.support.models.sample_tokenizers import CHAT_TEMPLATE, SPECIAL_TOKENS

TURNS = [ChatTurn("system", "be brief"), ChatTurn("user", "hi <b>"), ChatTurn("assistant", "ho"), ChatTurn("user", "?")]


@pytest.mark.parametrize("name", ["thinking", "reasoning_content"])
def test_thoughts_are_called_as_the_template_calls_them(name: str) -> None:
    template = ChatTemplate(f"{{% for message in messages %}}{{{{ message.{name} }}}}{{% endfor %}}", {})
    assert template.render([ChatTurn("assistant", "ho", more={"reasoning_content": "hm"})], 100) == "hm"


def render(source: str, *turns: ChatTurn, max_chars: int = 10_000) -> str:
    return ChatTemplate(source, SPECIAL_TOKENS).render(turns or TURNS, max_chars)


def test_turns_special_tokens_and_generation_prompt_are_rendered() -> None:
    expected = "<s>[system] be brief\n[user] hi <b>\n[assistant] ho\n[user] ?\n[assistant] "
    assert render(CHAT_TEMPLATE) == expected


@pytest.mark.parametrize(
    "source",
    [
        CHAT_TEMPLATE,
        "{% for m in messages %}\n    {% if loop.first %}{% continue %}{% endif %}\n"
        "  {{ m.content | trim }}\n{% endfor %}",
        "{{ messages | tojson }} {{ messages | tojson(indent=2) }} {{ '<>&\\u00e9' | tojson }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% for m in messages %}{% if m.role == 'user' %}{% break %}{% endif %}{{ m['content'] }}{% endfor %}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}{{ eos_token }}",
        "{{ tools }} {{ documents }} {{ add_generation_prompt }} {{ strftime_now('%%') }} {{ undefined_name }}",
        "{%- macro say(x) -%}<{{ x }}>{%- endmacro -%}{{ say(messages[-1].content) }}{{ dict(a=1) }}",
    ],
)
def test_renders_what_transformers_renders(source: str) -> None:
    chat_template_utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [{"role": turn.role, "content": turn.content} for turn in TURNS]
    rendered, _ = chat_template_utils.render_jinja_template(
        conversations=[messages], chat_template=source, add_generation_prompt=True, **SPECIAL_TOKENS
    )
    assert render(source) == rendered[0]


def test_template_may_refuse_a_conversation() -> None:
    with pytest.raises(ChatTemplateError, match="unknown role"):
        render(CHAT_TEMPLATE, ChatTurn("pirate", "arr"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% set _ = messages.append(1) %}",
        "{{ messages[0].update(role='x') }}",
        "{% for i in range(10000000) %}{% endfor %}",
        "{% include 'other' %}",
        "{{ raise_exception.__globals__['json'] }}",
    ],
)
def test_template_cannot_leave_the_sandbox_or_change_the_conversation(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        render(source)


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{{ messages[0] + 1 }}", "{{ missing.attribute }}", "{{ 5 | int(0)() }}"]
)
def test_template_that_fails_is_an_error_of_the_template(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        render(source)


@pytest.mark.parametrize("source", ["{% if", "{{ unknown | nofilter }}", "{% generation %}"])
def test_template_that_does_not_compile_is_refused(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="does not compile"):
        ChatTemplate(source, {})


def test_rendered_text_is_bounded() -> None:
    source = "{% for i in range(1000) %}{{ messages[0].content }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="longer than 100"):
        render(source, max_chars=100)


def test_recursion_without_end_is_an_error_of_the_template() -> None:
    with pytest.raises(ChatTemplateError):
        render("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}")
