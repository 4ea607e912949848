"""What is not there, or of another kind, is refused in words that name it, before anything is sent."""

from collections.abc import AsyncIterator
from typing import Any, get_type_hints

import pytest
from qllm import AsyncClient, BatchItem, ChatMessage, GenerateOptions, InvalidRequest

from tests.unit.client.fake_service import FakeService

TURN = {"role": "user", "content": "hi"}
CALL = {"call_id": "a", "name": "f", "arguments": "{}"}
A_PROMPT = "a text, a list of token ids or a conversation, which is a list of turns"
OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"temprature": 0}, "temprature: there is no such option; did you mean temperature?"),
    ({"Max_Tokens": 3}, "Max_Tokens: there is no such option; did you mean max_tokens?"),
    ({"max_new_tokens": 3}, "max_new_tokens: there is no such option; did you mean max_tokens?"),
    ({"parallel_tool_calls": False}, "parallel_tool_calls: there is no such option; did you mean single_call?"),
    ({"foo": None}, "foo: there is no such option"),
    ({"x" * 10_000: 1}, f"{'x' * 10_000}: there is no such option"),
    ({"bad_words": "Return"}, "bad_words: got 'Return', allowed is a list of texts"),
    ({"stop": b"x"}, "stop: got b'x', allowed is a list of texts"),
    ({"choices": {"a": "b"}}, "choices: got {'a': 'b'}, allowed is a list of texts"),
    ({"stop": ["a", "\ud800"]}, r"stop[1]: got '\ud800', allowed is a text that UTF-8 can hold"),
    ({"stop_token_ids": 5}, "stop_token_ids: got 5, allowed is a list of integers"),
    ({"allowed_token_ids": [1, 0.5]}, "allowed_token_ids[1]: got 0.5, allowed is an integer"),
    ({"stop_token_ids": [1, 2**31]}, "stop_token_ids[1]: got 2147483648, allowed is an integer of 32 bits"),
    ({"temperature": "a"}, "temperature: got 'a', allowed is a number"),
    ({"top_p": True}, "top_p: got True, allowed is a number"),
    ({"max_tokens": 3.0}, "max_tokens: got 3.0, allowed is an integer"),
    ({"max_tokens": 2**40}, "max_tokens: got 1099511627776, allowed is an integer of 32 bits"),
    ({"seed": 2**63}, "seed: got 9223372036854775808, allowed is an integer of 64 bits"),
    ({"seed": "x"}, "seed: got 'x', allowed is an integer"),
    ({"ignore_eos": 1}, "ignore_eos: got 1, allowed is True or False"),
    ({"early_stopping": 1}, "early_stopping: got 1, allowed is True, False or 'never'"),
    ({"logit_bias": {"5": 3}}, "logit_bias: got '5', allowed is an integer as a key"),
    ({"logit_bias": {5: "x"}}, "logit_bias[5]: got 'x', allowed is a number"),
    ({"request_class": "xx"}, "request_class: got 'xx', allowed is 'ls' or 'be'"),
    (
        {"tool_choice": "maybe"},
        "tool_choice: got 'maybe', allowed is 'auto', 'none', 'required' or a mapping from texts to values",
    ),
    ({"json_schema": 3}, "json_schema: got 3, allowed is a mapping from texts to values or a text"),
    ({"json_schema": {"a": {1}}}, "json_schema: got {'a': {1}}, allowed is what can be written as JSON"),
    ({"timeout_s": "5"}, "timeout_s: got '5', allowed is a number"),
    ({"num_returned": 2}, "num_returned: got 2, allowed is one together with beam_width only"),
    ({"regex": "a", "lark": "b"}, "regex and lark were given; a text can be kept to one structure only"),
    ({"single_call": True}, "single_call: got True, allowed is one with a conversation as the prompt only"),
]
PROMPTS: list[tuple[Any, str]] = [
    (None, f"prompt: got None, allowed is {A_PROMPT}"),
    (b"xyz", f"prompt: got b'xyz', allowed is {A_PROMPT}"),
    (TURN, f"prompt: got {{'content': 'hi', 'role': 'user'}}, allowed is {A_PROMPT}"),
    ("\ud800", r"prompt: got '\ud800', allowed is a text that UTF-8 can hold"),
    ([1, "a"], "prompt[1]: got 'a', allowed is an integer"),
    ([1, -(2**31) - 1], "prompt[1]: got -2147483649, allowed is an integer of 32 bits"),
    (
        ["a", "b"],
        """messages[0]: got 'a', allowed is a ChatMessage or {"role": ..., "content": ...}; several prompts are for """
        "generate_all",
    ),
    ([TURN, {"role": "user"}], "messages[1].content: it is missing, and required"),
    ([ChatMessage(5, "hi")], "messages[0].role: got 5, allowed is a text"),  # type: ignore[arg-type]
]


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.address) as client:
        yield client


@pytest.mark.parametrize(("options", "message"), OPTIONS)
async def test_an_option_that_is_not_there_or_of_another_kind_is_named(
    client: AsyncClient, service: FakeService, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        client.generate("hi", **options)
    assert str(refusal.value) == message
    assert service.requests == []


@pytest.mark.parametrize(("prompt", "message"), PROMPTS)
async def test_a_prompt_that_is_none_is_refused_by_the_part_that_is_wrong(
    client: AsyncClient, service: FakeService, prompt: Any, message: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        client.generate(prompt)
    assert str(refusal.value) == message
    assert service.requests == []


async def test_none_is_as_if_an_option_was_left_out(client: AsyncClient, service: FakeService) -> None:
    nothing: Any = dict.fromkeys(get_type_hints(GenerateOptions))
    await client.generate("hi", max_tokens=1).collect()
    await client.generate("hi", **{**nothing, "max_tokens": 1}).collect()
    left_out, none = service.requests
    assert left_out == none


async def test_what_is_of_the_kind_is_sent_whatever_holds_it(client: AsyncClient, service: FakeService) -> None:
    options: Any = {"stop": {"x"}, "allowed_token_ids": range(3), "temperature": 1, "request_class": "be"}
    await client.generate((1, 2), max_tokens=1, **options).collect()
    (request,) = service.requests
    assert (list(request.token_ids.ids), list(request.stop.stop_strings)) == ([1, 2], ["x"])
    assert (list(request.sampling.allowed_token_ids), request.request_class) == ([0, 1, 2], 2)


async def test_a_turn_of_calls_needs_no_content(client: AsyncClient, service: FakeService) -> None:
    turns: Any = [TURN, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    await client.generate(turns, max_tokens=1).collect()
    assert [turn.content for turn in service.requests[0].chat.messages] == ["hi", ""]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ("def f():", {}, "prompts: got 'def f():', allowed is a list of prompts"),
        (5, {}, "prompts: got 5, allowed is a list of prompts"),
        (["a"], {"max_concurrency": 0}, "max_concurrency: got 0, allowed is an integer of at least 1"),
        (["a"], {"max_token": 1}, "max_token: there is no such option; did you mean max_tokens?"),
        ([], {"max_token": 1}, "max_token: there is no such option; did you mean max_tokens?"),
    ],
)
async def test_many_prompts_are_checked_alike(
    client: AsyncClient, service: FakeService, prompts: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await client.generate_all(prompts, **options)
    assert str(refusal.value) == message
    assert service.requests == []


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ([{"prompt": "a"}], {}, "items[0]: got {'prompt': 'a'}, allowed is a BatchItem"),
        ([BatchItem("a", "x"), BatchItem(5, "x")], {}, "items[1].custom_id: got 5, allowed is a text"),  # type: ignore[arg-type]
        ([BatchItem("a", "x", {"n": 5})], {}, "items[0]: n: there is no such option"),  # type: ignore[typeddict-unknown-key]
        ([], {"metadata": {"a": 1}}, "metadata['a']: got 1, allowed is a text"),
        ([], {"completion_window_s": "1h"}, "completion_window_s: got '1h', allowed is a number"),
        ([], {"idempotency_key": 5}, "idempotency_key: got 5, allowed is a text"),
    ],
)
async def test_a_job_is_refused_by_what_is_wrong(
    client: AsyncClient, items: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await client.create_batch(items, **options)
    assert str(refusal.value).startswith(message)
