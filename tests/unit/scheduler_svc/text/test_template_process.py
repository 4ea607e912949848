"""A chat template runs in a process of its own, which ends when the template takes too much, and is started again."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler_svc.text import template_process
from scheduler_svc.text.template_process import (
    TemplateExhausted,
    TemplateLimits,
    TemplateProcess,
    TemplateProcessUnavailable,
    TemplateUnusable,
)
from tests.support.channel.control_channel import ROOT, python_path

LIMITS = TemplateLimits(cpu_s=0.3)
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ASKED_FOR = "{% if 'bomb' in messages[0].content %}BOMB{% endif %}{{ messages[0].content }}"
HARMFUL = {
    "loop": LOOP,
    "power": "{{ 10 ** (10 ** 10) }}",
    "memory": "{{ 'a' * 2 * 10 ** 9 }}",
    "list": "{{ range(99999) | list * 9999 }}",
}


@pytest.fixture
def started() -> Iterator[list[TemplateProcess]]:
    processes: list[TemplateProcess] = []
    yield processes
    for process in processes:
        process.close()


def make(started: list[TemplateProcess], source: str, limits: TemplateLimits = LIMITS) -> TemplateProcess:
    process = TemplateProcess(source, {"bos_token": "<s>"}, limits)
    started.append(process)
    return process


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


async def render(process: TemplateProcess, content: str) -> dict[str, Any]:
    return await process.ask({"turns": [turn("user", content)], "max_chars": 1000})


async def test_a_conversation_is_rendered_elsewhere(started: list[TemplateProcess]) -> None:
    process = make(started, "{{ bos_token }}{{ messages[0].content }}")
    assert process.pid is None
    assert await render(process, "hi \ud83d") == {"text": "<s>hi \ud83d"}
    first = process.pid
    assert first not in (None, os.getpid())
    assert await render(process, "ho") == {"text": "<s>ho"}
    assert process.pid == first


async def test_the_usual_roles_are_tried_at_the_start(started: list[TemplateProcess]) -> None:
    process = make(started, "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}")
    await process.start()
    assert process.roles == ("user",)
    frame = {"turns": [turn("user", "hi"), turn("assistant", "ho")], "max_chars": 10}
    assert (await process.ask(frame)) == {"lost": 1, "call_words": ""}


async def test_a_refusal_is_an_answer(started: list[TemplateProcess]) -> None:
    process = make(started, "{{ raise_exception('no' * 9999) }}")
    assert (await render(process, "hi"))["refused"].startswith("nono")
    assert len((await render(process, "hi"))["refused"]) == 1000
    long = make(started, "{{ messages[0].content * 1001 }}")
    assert "longer than 1000" in (await render(long, "x"))["refused"]


@pytest.mark.parametrize(
    "said",
    [
        "{{ (m.function.arguments.n * 9).as_integer_ratio() }}",
        "{{ raise_exception((messages | length + 8) ** 5000) }}",
        "{{ messages | tojson(indent='x' * 3) }}{{ '%d' % m.function.name }}",
        "{% for a in m.function.arguments %}{{ m.function.arguments.update({a * 2: 1}) }}{% endfor %}",
        "{{ strftime_now(m.function.name + '\ud83d') }}",
    ],
)
async def test_whatever_a_caller_says_the_process_answers_and_goes_on(
    started: list[TemplateProcess], said: str
) -> None:
    marks = "".join(f"q{letter}{'1' * 5000}{letter}q" for letter in "zca")
    call = {"id": "1", "type": "function", "function": {"name": marks, "arguments": {marks: marks, "n": 1e308}}}
    turns = [turn("user", "hi"), {"role": "assistant", "content": "", "more": {"tool_calls": [call]}}]
    body = "{% for m in messages[-1].tool_calls or [] %}SAID{{ m | tojson }}{% endfor %}{{ messages[0].content }}"
    for source in (body.replace("SAID", ""), body.replace("SAID", said)):
        process = make(started, source)
        await process.start()
        pid = process.pid
        answer = await process.ask({"turns": turns, "max_chars": 100_000})
        assert set(answer) <= {"text", "refused", "lost", "call_words"}
        assert await render(process, "hi") == {"text": "hi"}
        assert process.pid == pid


@pytest.mark.parametrize("source", ["{% if", "{{ x | nofilter }}"])
async def test_a_template_that_does_not_compile_is_unusable(started: list[TemplateProcess], source: str) -> None:
    with pytest.raises(TemplateUnusable, match="does not compile"):
        await make(started, source).start()


@pytest.mark.parametrize(
    ("bomb", "words"),
    [("loop", "longer than 0.3 s"), ("power", "longer than 0.3 s"), ("memory", "512 MiB"), ("list", "512 MiB")],
)
async def test_a_template_that_takes_too_much_is_found_out_at_the_start(
    started: list[TemplateProcess], bomb: str, words: str
) -> None:
    process = make(started, HARMFUL[bomb])
    with pytest.raises(TemplateUnusable, match=words):
        await process.start()
    assert process.pid is None


@pytest.mark.parametrize("bomb", ["loop", "memory"])
async def test_one_conversation_that_takes_too_much_costs_no_other_one(
    started: list[TemplateProcess], bomb: str
) -> None:
    process = make(started, ASKED_FOR.replace("BOMB", HARMFUL[bomb]))
    assert await render(process, "hi") == {"text": "hi"}
    with pytest.raises(TemplateExhausted, match="the model's chat template took"):
        await render(process, "bomb")
    assert await render(process, "ho") == {"text": "ho"}


async def test_the_event_loop_goes_on_while_a_template_loops(started: list[TemplateProcess]) -> None:
    asking = asyncio.create_task(make(started, LOOP).start())
    num_turns = 0
    while not asking.done():
        await asyncio.sleep(0.001)
        num_turns += 1
    assert num_turns > 20
    assert isinstance(asking.exception(), TemplateUnusable)


async def test_a_process_that_was_killed_is_started_again(started: list[TemplateProcess]) -> None:
    process = make(started, ASKED_FOR)
    await process.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(TemplateExhausted, match=r"died \(exit code -9\)"):
        await render(process, "hi")
    assert await render(process, "hi") == {"text": "hi"}


async def test_a_process_without_time_to_run_is_not_the_templates_fault(started: list[TemplateProcess]) -> None:
    process = make(started, ASKED_FOR, TemplateLimits(wait_s=0.3))
    await process.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(TemplateProcessUnavailable, match=r"no time to run for 0\.3 s") as caught:
        await render(process, "hi")
    assert caught.value.retry_after_s is not None


async def test_a_process_that_cannot_be_started_is_asked_for_again(
    started: list[TemplateProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = make(started, ASKED_FOR)
    with monkeypatch.context() as patched:
        patched.setattr(template_process, "_CHILD", ("/nowhere/python",))
        with pytest.raises(TemplateProcessUnavailable, match="No such file"):
            await process.start()
        patched.setattr(template_process, "_CHILD", (sys.executable, "-c", "raise SystemExit(3)"))
        with pytest.raises(TemplateProcessUnavailable, match="exit code 3"):
            await process.start()
    assert await render(process, "hi") == {"text": "hi"}


async def test_closing_ends_a_rendering_at_once(started: list[TemplateProcess]) -> None:
    process = make(started, ASKED_FOR.replace("BOMB", LOOP), TemplateLimits(cpu_s=300))
    await process.start()
    asking = asyncio.create_task(render(process, "bomb"))
    await asyncio.sleep(0.05)
    process.close()
    with pytest.raises(TemplateProcessUnavailable, match="stopping"):
        await asking
    assert process.pid is None


async def test_a_process_that_nobody_holds_any_more_is_ended() -> None:
    process = TemplateProcess(ASKED_FOR, {}, LIMITS)
    await process.start()
    pid = process.pid
    assert pid is not None
    assert is_running(pid)
    del process
    assert not is_running(pid)


async def test_the_child_has_no_descriptor_and_no_secret_of_the_service(
    started: list[TemplateProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLLM_SECRET", "xyz")
    with (tmp_path / "open").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        process = make(started, ASKED_FOR)
        await process.start()
    of_child = Path(f"/proc/{process.pid}")
    assert sorted(path.name for path in (of_child / "fd").iterdir()) == ["0", "1", "2"]
    assert b"xyz" not in (of_child / "environ").read_bytes()


def test_the_child_ends_with_a_parent_that_is_killed() -> None:
    program = (
        "import asyncio, time\n"
        "from scheduler_svc.text.template_process import TemplateLimits, TemplateProcess\n"
        "async def main():\n"
        f"    process = TemplateProcess({ASKED_FOR.replace('BOMB', LOOP)!r}, {{}}, TemplateLimits(cpu_s=300))\n"
        "    await process.start()\n"
        "    print(process.pid, flush=True)\n"
        "    await process.ask({'turns': [{'role': 'user', 'content': 'bomb'}], 'max_chars': 9})\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, env=python_path(), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.1)  # so that it is inside the loop, most likely
        parent.kill()
    deadline_s = time.monotonic() + 60
    while is_running(child):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Tells a process that runs from one that is gone, or that its new parent has not heard of yet."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
