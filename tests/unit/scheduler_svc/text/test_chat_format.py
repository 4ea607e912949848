"""Whatever a template's conventions are, what is said in a conversation is in the prompt, or it is refused."""

from typing import Any

import pytest

from scheduler_svc.text import chat_format as chat_format_module
from scheduler_svc.text.chat_format import ChatFormat, LostTurn
from scheduler_svc.text.chat_template import ChatTemplate, ChatTemplateError, ChatTurn
from tests.support.models import chat_templates
from tests.support.models.sample_tokenizers import CHAT_TEMPLATE, SPECIAL_TOKENS

SYSTEM, DEVELOPER = ChatTurn("system", "answer in French"), ChatTurn("developer", "answer in French")
HI, HO, BYE = ChatTurn("user", "hi <b>"), ChatTurn("assistant", "ho"), ChatTurn("user", "bye")


def chat_format(source: str) -> ChatFormat:
    return ChatFormat(ChatTemplate(source, SPECIAL_TOKENS))


def render(source: str, *turns: ChatTurn) -> str:
    return chat_format(source).render(turns, 100_000)


@pytest.mark.parametrize("name", ["CHATML", "LLAMA_3", "DEEPSEEK", "PARTS", "PARTS_BUT_OF_SYSTEM", "EITHER"])
@pytest.mark.parametrize("first", [SYSTEM, DEVELOPER])
def test_every_turn_is_in_the_prompt(name: str, first: ChatTurn) -> None:
    text = render(getattr(chat_templates, name), first, HI, HO, BYE)
    positions = [text.find(turn.content) for turn in (first, HI, HO, BYE)]
    assert -1 not in positions
    assert positions == sorted(positions)


@pytest.mark.parametrize("name", ["MISTRAL", "GEMMA"])
def test_templates_without_a_system_role_say_so(name: str) -> None:
    source = getattr(chat_templates, name)
    assert "bye" in render(source, HI, HO, BYE)
    for first in (SYSTEM, DEVELOPER):
        with pytest.raises(ChatTemplateError, match=r"alternate|not supported"):
            render(source, first, HI)
    with pytest.raises(ChatTemplateError, match="alternate"):
        render(source, HI, BYE)
    assert chat_format(source).roles == ("user", "assistant")


@pytest.mark.parametrize("source", [chat_templates.SYSTEM_AND_USER, CHAT_TEMPLATE, chat_templates.DEEPSEEK])
def test_developer_is_called_system_where_the_template_knows_that_only(source: str) -> None:
    assert render(source, DEVELOPER, HI) == render(source, SYSTEM, HI)


def test_developer_keeps_its_name_where_the_template_knows_it() -> None:
    assert "<|im_start|>developer\nanswer" in render(chat_templates.CHATML, DEVELOPER, HI)


def test_a_conversation_with_a_turn_that_the_template_drops_is_refused() -> None:
    with pytest.raises(LostTurn) as caught:
        render(chat_templates.SYSTEM_AND_USER, SYSTEM, HI, HO, BYE)
    assert caught.value.index == 2
    with pytest.raises(LostTurn):
        render("{{ messages[-1].content }}", HI, HO, BYE)
    assert chat_format(chat_templates.SYSTEM_AND_USER).roles == ("system", "developer", "user")


def test_a_short_turn_that_happens_to_be_in_another_one_is_missed_all_the_same() -> None:
    with pytest.raises(LostTurn):
        render(chat_templates.SYSTEM_AND_USER, ChatTurn("user", "ho ho ho"), HO, BYE)


def test_a_turn_that_says_nothing_may_leave_no_trace() -> None:
    assert render(chat_templates.SYSTEM_AND_USER, HI, ChatTurn("assistant", " \n"), BYE) == "Uhi <b>Ubye"


def test_earlier_reasoning_may_be_left_out() -> None:
    thought = ChatTurn("assistant", "<think>hm</think>ho")
    assert (
        render(chat_templates.DEEPSEEK, HI, thought, BYE)
        == "<s><|User|>hi <b><|Assistant|>ho</s><|User|>bye<|Assistant|>"
    )
    assert "hm" not in render(chat_templates.DEEPSEEK, HI, ChatTurn("assistant", "<think>hm</think>"), BYE)


def test_a_content_is_a_text_where_the_template_takes_both() -> None:
    assert chat_format(chat_templates.EITHER).convention(("user",)).roles_in_parts == frozenset()
    assert chat_format(chat_templates.PARTS).convention(("user",)).roles_in_parts == {"user"}


def test_a_list_of_parts_that_is_written_as_it_is_leaves_no_trace() -> None:
    with pytest.raises(LostTurn):
        render("{% for m in messages %}{% if m.content is not string %}{{ m.content }}{% endif %}{% endfor %}", HI)


def test_a_template_that_changes_case_and_spaces_drops_nothing() -> None:
    assert render("{% for m in messages %}{{ m.content | upper | trim }}{% endfor %}", HI, BYE) == "HI <B>BYE"


def test_a_template_that_takes_contents_of_one_form_only_is_believed_where_they_are_found() -> None:
    source = (
        "{% for m in messages %}{% if m.content[0] != '#' %}{{ raise_exception('no #') }}{% endif %}"
        "{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    assert render(source, ChatTurn("user", "# hi")) == "# hi"
    with pytest.raises(ChatTemplateError, match="no #"):
        render(source, HI)
    with pytest.raises(LostTurn):
        render(source, ChatTurn("user", "# hi"), ChatTurn("assistant", "# ho"))


def test_long_conversations_are_tried_and_not_remembered() -> None:
    turns = [HI, HO] * 300
    assert render(chat_templates.CHATML, *turns).count("hi <b>") == 300
    with pytest.raises(LostTurn):
        render(chat_templates.SYSTEM_AND_USER, *turns)


def test_a_long_conversation_is_tried_first_as_its_beginning_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    formed = chat_format(chat_templates.PARTS_BUT_OF_SYSTEM)
    turns = [SYSTEM, *[HI, HO] * 300]
    expected = formed.render(turns, 100_000)
    renders = 0
    render_once = ChatTemplate.render

    def counted(*args: Any) -> str:
        nonlocal renders
        renders += 1
        return render_once(*args)

    monkeypatch.setattr(ChatTemplate, "render", counted)
    assert formed.render(turns, 100_000) == expected
    assert renders == 2


def test_trials_may_be_as_long_as_the_conversation() -> None:
    source = "{% for m in messages %}" + "x" * 1000 + "{{ m.content }}{% endfor %}"
    formed = chat_format(source)
    turns = [HI] * 1100
    assert len(formed.render(turns, 2 << 20)) > 1 << 20
    assert not formed.convention(tuple(turn.role for turn in turns), 2 << 20).is_guess


def test_what_a_guess_lost_is_looked_for_in_one_walk_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "{% for m in messages %}{% if m.content[0] != '#' %}{{ raise_exception('no #') }}{% endif %}"
        "{{ m.content }}\n{% endfor %}"
    )
    normalized: list[str] = []
    plain = chat_format_module._plain
    monkeypatch.setattr(chat_format_module, "_plain", lambda text: normalized.append(text) or plain(text))
    turns = [ChatTurn("user", f"# {index}") for index in range(100)]
    text = render(source, *turns)
    assert normalized.count(text) == 1
    assert len(normalized) == 1 + len(turns)
