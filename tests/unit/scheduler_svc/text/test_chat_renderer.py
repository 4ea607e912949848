"""Conversations are rendered by class, a template that does harm is named once, and nobody gets another's text."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.text import chat_renderer
from scheduler_svc.text.chat_format import LostTurn
from scheduler_svc.text.chat_renderer import ChatRenderer, num_chars
from scheduler_svc.text.chat_template import ChatTemplateError, ChatTurn, Setting
from scheduler_svc.text.template_process import (
    TemplateExhausted,
    TemplateLimits,
    TemplateProcess,
    TemplateProcessUnavailable,
    TemplateUnusable,
)
from scheduler_svc.text.threads import VERY_LONG_CHARS

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LOOPS_IF_ASKED = "{% if 'loop' in messages[0].content %}" + LOOP + "{% endif %}{{ messages[0].content }}"


@pytest.fixture
async def renderers() -> AsyncIterator[list[ChatRenderer]]:
    made: list[ChatRenderer] = []
    yield made
    for one in made:
        one.close()


def make(renderers: list[ChatRenderer], source: str, cpu_s: float = 0.3) -> ChatRenderer:
    renderers.append(ChatRenderer("model", source, {}, TemplateLimits(cpu_s=cpu_s)))
    return renderers[-1]


async def render(renderer: ChatRenderer, content: str, request_class: RequestClass = LS) -> str:
    return await renderer.render(request_class, [ChatTurn("user", content)], 1 << 20)


def test_functions_and_calls_count_for_the_length_of_a_conversation() -> None:
    call = ChatTurn("assistant", "", more={"tool_calls": ["x" * 1000]})
    assert num_chars([call]) - num_chars([ChatTurn("assistant", "")]) >= 1000
    assert num_chars([], Setting(tools=[{"x": "y" * 1000}])) >= 1000


async def test_each_answer_reaches_who_asked(renderers: list[ChatRenderer]) -> None:
    renderer = make(renderers, "{{ messages[0].content }}")
    contents = [f"hi {index}" for index in range(50)]
    assert await asyncio.gather(*(render(renderer, one) for one in contents)) == contents


async def test_a_caller_that_leaves_takes_no_answer_along(renderers: list[ChatRenderer]) -> None:
    renderer = make(renderers, "{{ messages[0].content }}")
    await renderer.load()
    leaving = [asyncio.create_task(render(renderer, f"left {index}")) for index in range(5)]
    await asyncio.sleep(0)
    for one in leaving:
        one.cancel()
    assert await render(renderer, "stayed") == "stayed"
    await asyncio.wait(leaving)


async def test_best_effort_and_very_long_conversations_hold_up_no_other(renderers: list[ChatRenderer]) -> None:
    renderer = make(renderers, LOOPS_IF_ASKED, cpu_s=300)
    stuck = [
        asyncio.create_task(render(renderer, "loop", BE)),
        asyncio.create_task(render(renderer, "loop" + "x" * VERY_LONG_CHARS)),
    ]
    async with asyncio.timeout(300):
        assert await render(renderer, "hi") == "hi"
    assert not any(one.done() for one in stuck)
    renderer.close()
    await asyncio.wait(stuck)
    assert all(isinstance(one.exception(), TemplateProcessUnavailable) for one in stuck)


async def test_a_template_that_always_takes_too_long_is_tried_and_logged_once(
    renderers: list[ChatRenderer], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = make(renderers, LOOP)
    with caplog.at_level(logging.WARNING):
        await renderer.load()
        monkeypatch.setattr(TemplateProcess, "start", None)  # it would be called
        for request_class in RequestClass:
            with pytest.raises(TemplateUnusable, match=r"the model's chat template took longer than 0\.3 s"):
                await render(renderer, "hi", request_class)
    [line] = caplog.messages
    assert line == "model=model chat requests are refused: the model's chat template took longer than 0.3 s"


async def test_what_one_conversation_took_too_long_for_is_rendered_for_the_next(
    renderers: list[ChatRenderer], caplog: pytest.LogCaptureFixture
) -> None:
    renderer = make(renderers, LOOPS_IF_ASKED)
    for _ in range(2):
        with pytest.raises(TemplateExhausted, match="longer than"):
            await render(renderer, "loop")
        assert await render(renderer, "hi") == "hi"
    assert len(caplog.messages) == 1


async def test_what_the_template_refuses_or_drops_is_told_apart(renderers: list[ChatRenderer]) -> None:
    refusing = make(renderers, "{{ raise_exception('no') }}")
    with pytest.raises(ChatTemplateError, match="no"):
        await render(refusing, "hi")
    dropping = make(renderers, "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(LostTurn) as caught:
        await dropping.render(LS, [ChatTurn("user", "hi"), ChatTurn("assistant", "ho")], 100)
    assert caught.value.index == 1
    assert dropping.roles == ("user",)


async def test_who_waits_too_long_for_others_is_told_when_to_come_back(
    renderers: list[ChatRenderer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_renderer, "_MAX_WAIT_S", 0.05)
    renderer = make(renderers, LOOPS_IF_ASKED, cpu_s=300)
    stuck = asyncio.create_task(render(renderer, "loop"))
    await asyncio.sleep(0)
    with pytest.raises(TemplateProcessUnavailable, match="other chats") as caught:
        await render(renderer, "hi")
    assert caught.value.retry_after_s is not None
    renderer.close()
    await asyncio.wait((stuck,))


async def test_nothing_is_started_once_it_is_closed(renderers: list[ChatRenderer]) -> None:
    renderer = make(renderers, LOOPS_IF_ASKED)
    renderer.close()
    with pytest.raises(TemplateProcessUnavailable, match="stopping"):
        await render(renderer, "hi")
