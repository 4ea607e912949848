"""Conversations over the command, at no terminal: what is sent, what is shown where, and how they end."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from qllm import ChatMessage, Client, RequestClass, Usage
from qllm.client.cli.chat.chat import Chat
from qllm.client.cli.chat.conversation import Conversation
from qllm.client.cli.chat.terminal import Terminal

from tests.unit.client.fake_service import FakeService
from tests.unit.client.in_process import Finished, run_here

Hold = Callable[..., Awaitable[Finished]]
Turn = tuple[str, str]


@pytest.fixture
def chat(service: FakeService) -> Hold:
    async def hold(*lines: str, options: tuple[str, ...] = ()) -> Finished:
        typed = "".join(f"{line}\n" for line in lines).encode()
        words = ("chat", "--max-tokens", "2", *options)
        return await run_here(*words, stdin=typed, QLLM_ADDRESS=service.address)

    return hold


def sent(service: FakeService, place: int) -> list[Turn]:
    return [(turn.role, turn.content) for turn in service.requests[place].chat.messages]


async def test_each_question_goes_with_all_that_was_said_before(chat: Hold, service: FakeService) -> None:
    finished = await chat("one", "", "two", options=("--system", "be brief"))
    assert (finished.code, finished.out) == (0, "0 1 \n0 1 \n")
    system = ("system", "be brief")
    assert sent(service, 0) == [system, ("user", "one")]
    assert sent(service, 1) == [system, ("user", "one"), ("assistant", "0 1 "), ("user", "two")]


async def test_answers_alone_are_output_and_their_pace_is_told_beside(chat: Hold) -> None:
    finished = await chat("one")
    assert finished.out == "0 1 \n"
    assert finished.err.startswith("[ls] 2 tokens, ")
    assert "tokens/s, first token after 0." in finished.err
    assert ", stood still 4 times for others, context 2 tokens; cut off at its most tokens" in finished.err


async def test_turns_are_of_one_session_until_a_new_conversation_begins(chat: Hold, service: FakeService) -> None:
    await chat("one", "two", "/reset", "three")
    first, second, third = (request.session.session_id for request in service.requests)
    assert first.startswith("chat-")
    assert first == second != third
    assert sent(service, 2) == [("user", "three")]


async def test_a_session_that_is_named_stays_that(chat: Hold, service: FakeService) -> None:
    await chat("one", "/reset", "two", options=("--session", "mine"))
    assert [request.session.session_id for request in service.requests] == ["mine", "mine"]


async def test_the_class_may_change_between_questions(chat: Hold, service: FakeService) -> None:
    finished = await chat("one", "/class BE", "two", "/class vip", "three", options=("--class", "ls"))
    assert [request.request_class for request in service.requests] == [1, 2, 2]
    assert "[be] 2 tokens" in finished.err
    assert "/class: got 'vip', allowed are ls and be." in finished.err


async def test_what_it_is_told_reaches_the_service(chat: Hold, service: FakeService) -> None:
    await chat("one", options=("--temperature", "0.5", "--top-p", "0.25", "--seed", "3"))
    sampling = service.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.25, 3)


async def test_help_lists_what_there_is_and_exit_leaves(chat: Hold, service: FakeService) -> None:
    finished = await chat("/help", "/hlep", "/exit", "never asked")
    assert (finished.code, finished.out, service.requests) == (0, "", [])
    assert all(name in finished.err for name in ("/class ls|be", "/reset", "/exit", "Ctrl-C"))
    assert "There is no /hlep: /help lists what there is." in finished.err


async def test_a_question_may_begin_with_a_slash(chat: Hold, service: FakeService) -> None:
    finished = await chat("//etc/hosts, what is it?", "//")
    assert finished.code == 0
    assert [sent(service, place)[-1] for place in range(2)] == [("user", "/etc/hosts, what is it?"), ("user", "/")]


async def test_thoughts_are_told_beside_the_answers_and_are_no_part_of_them(chat: Hold, service: FakeService) -> None:
    finished = await chat("think", "two")
    assert finished.out == "0 1 \n0 1 \n"
    assert finished.err.startswith("hm\n[ls] 2 tokens")
    assert sent(service, 1) == [("user", "think"), ("assistant", "0 1 "), ("user", "two")]


async def test_a_question_that_is_refused_ends_what_nobody_sits_at(chat: Hold, service: FakeService) -> None:
    finished = await chat("one", "fail INVALID_ARGUMENT", "never asked")
    assert (finished.code, finished.out) == (1, "0 1 \n")
    assert finished.err.splitlines()[-1] == "qllm-client: INVALID_ARGUMENT: because it was asked to"
    assert len(service.requests) == 2


async def test_lines_that_are_no_text_are_wrong_usage(service: FakeService) -> None:
    finished = await run_here("chat", stdin=b"\xff\xfe\n", QLLM_ADDRESS=service.address)
    assert (finished.code, finished.err) == (2, "qllm-client: standard input is not UTF-8 text: invalid start byte\n")


async def test_nobody_at_the_address_is_told_before_anything_is_typed() -> None:
    finished = await run_here("chat", "--address", "127.0.0.1:1", stdin=b"one\n")
    assert (finished.code, finished.out) == (1, "")
    assert "start one with `qllm-scheduler --model DIR --spawn-worker`" in finished.err


def test_a_conversation_is_full_once_its_tokens_fill_the_context() -> None:
    conversation = Conversation(None, None, max_tokens=1_024)
    assert not conversation.is_full
    conversation.keep("one", "1", usage_of(1_000, 23))
    assert not conversation.is_full
    conversation.keep("two", "2", usage_of(1_023, 1))
    assert conversation.is_full
    assert conversation.room == "1,024 of 1,024 tokens"
    conversation.reset()
    assert not conversation.is_full
    assert conversation.with_question("three") == [ChatMessage("user", "three")]


def usage_of(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(prompt_tokens, completion_tokens, 0.0, 0.0, 0.0, 0, 0)


class Typed(Terminal):
    """A terminal at which these lines are typed; it remembers what is said beside the answers."""

    def __init__(self, *lines: str) -> None:
        super().__init__()
        self.is_interactive = True
        self.notes: list[str] = []
        self._lines = [*lines]

    def read(self, prompt: str) -> str | None:
        return self._lines.pop(0) if self._lines else None

    def note(self, text: str) -> None:
        self.notes.append(text)


async def test_at_a_terminal_a_refused_question_is_told_and_forgotten(service: FakeService) -> None:
    terminal = Typed("one", "fail INVALID_ARGUMENT", "two")
    await asyncio.to_thread(hold, service, terminal, Conversation(None, None))
    assert terminal.notes[1] == ("INVALID_ARGUMENT: because it was asked to; /reset begins a new conversation")
    assert sent(service, 2) == [("user", "one"), ("assistant", "0 1 "), ("user", "two")]


async def test_at_a_terminal_a_full_context_is_told_and_nothing_is_sent(service: FakeService) -> None:
    terminal = Typed("one", "two", "/reset", "three")
    await asyncio.to_thread(hold, service, terminal, Conversation(None, None, max_tokens=2))
    full = "the context is full, 2 of 2 tokens; /reset begins a new conversation"
    assert terminal.notes[1:3] == [f"INVALID_ARGUMENT: {full}", "A new conversation."]
    assert [sent(service, place) for place in range(2)] == [[("user", "one")], [("user", "three")]]


def hold(service: FakeService, terminal: Terminal, conversation: Conversation) -> None:
    with Client(service.address) as client:
        Chat(client, conversation, terminal, RequestClass.LATENCY_SENSITIVE, {"max_tokens": 2}).run()
