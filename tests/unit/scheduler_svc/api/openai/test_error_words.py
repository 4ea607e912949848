"""What is wrong with a body is said in its sender's words: one sentence, JSON's terms, and what was probably meant."""

import json
import re

import pytest

from scheduler_svc.api.grpc.admin import model_facts
from tests.support.service.api_service import running
from tests.support.service.bad_input_cases import BAD_INPUT_CASES, send
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.openai_service import CHAT, COMPLETIONS, USER_SAYS_HI, error_of, http_app

# Words of Python, of its libraries, and of what is inside.
_FOREIGN = re.compile(
    r"\b(None|True|False|nan|inf|dict|str|NoneType|pydantic)\b|\bb['\"]|Input should|valid (integer|str)|\n"
)

CASES = [
    # fields that are not there
    (COMPLETIONS, {"temprature": 1}, "temprature: there is no such field here; did you mean temperature?"),
    (COMPLETIONS, {"Temperature": 1}, "Temperature: there is no such field here; did you mean temperature?"),
    (COMPLETIONS, {"max_token": 1}, "max_token: there is no such field here; did you mean max_tokens?"),
    (COMPLETIONS, {"maxTokens": 1}, "maxTokens: there is no such field here; did you mean max_tokens?"),
    (COMPLETIONS, {"max_new_tokens": 1}, "max_new_tokens: there is no such field here; send max_tokens"),
    (COMPLETIONS, {"stop_sequences": []}, "stop_sequences: there is no such field here; send stop"),
    (COMPLETIONS, {"messages": []}, "messages: there is no such field here; it is for /v1/chat/completions"),
    (CHAT, {"prompt": "hi"}, "prompt: there is no such field here; it is for /v1/completions"),
    (CHAT, {"input": "hi"}, "input: there is no such field here; it is for /v1/responses"),
    (COMPLETIONS, {"input": "hi"}, "input: there is no such field here; send prompt"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": "a", "prompt": "b"}]},
        "messages[0].prompt: there is no such field here",
    ),
    (COMPLETIONS, {"unheard_of": None}, "unheard_of: there is no such field here"),
    (COMPLETIONS, {"x" * 4000: None}, "x" * 100 + ": there is no such field here"),
    (
        COMPLETIONS,
        {"stream": True, "stream_options": {"include_usag": True}},
        "stream_options.include_usag: there is no such field here; did you mean include_usage?",
    ),
    (
        CHAT,
        {"messages": [{"rol": "user", "content": "a"}]},
        "messages[0].rol: there is no such field here; did you mean role?",
    ),
    # fields that have to be there
    (COMPLETIONS, {"prompt": ...}, "prompt: it is missing, and required"),
    (CHAT, {"messages": ...}, "messages: it is missing, and required"),
    ("/detokenize", {}, "tokens: it is missing, and required"),
    (CHAT, {"messages": [{"content": "a"}]}, "messages[0].role: it is missing, and required"),
    # kinds of values
    (COMPLETIONS, {"temperature": "hot"}, "temperature: got 'hot', allowed is a number"),
    (COMPLETIONS, {"temperature": [None]}, "temperature: got [null], allowed is a number"),
    (COMPLETIONS, {"temperature": True}, "temperature: got true, allowed is a number"),
    (COMPLETIONS, {"seed": 1.5}, "seed: got 1.5, allowed is an integer"),
    (COMPLETIONS, {"seed": "1"}, "seed: got '1', allowed is an integer"),
    (COMPLETIONS, {"stream": "yes"}, "stream: got 'yes', allowed is a boolean"),
    (COMPLETIONS, {"stop": [None]}, "stop[0]: got null, allowed is a string"),
    (COMPLETIONS, {"stop": False}, "stop: got false, allowed is a string or a list of strings"),
    (COMPLETIONS, {"logit_bias": []}, "logit_bias: got [], allowed is an object"),
    (COMPLETIONS, {"bad_words": "a"}, "bad_words: got 'a', allowed is a list"),
    (COMPLETIONS, {"prompt": None}, "prompt: got null, allowed is a string, a list of token ids, or a list of either"),
    (CHAT, {"messages": None}, "messages: got null, allowed is a list"),
    (CHAT, {"messages": [True]}, "messages[0]: got true, allowed is an object"),
    (COMPLETIONS, {"service_tier": None, "priority": False}, "priority: got false, allowed is an integer"),
    # bounds
    (COMPLETIONS, {"top_p": float("nan")}, "top_p: got NaN, allowed is a finite number"),
    (COMPLETIONS, {"temperature": float("inf")}, "temperature: got Infinity, allowed is a finite number"),
    (COMPLETIONS, {"n": 0}, "n: got 0, allowed is 1 to 128"),
    (COMPLETIONS, {"stop": ["a"] * 17}, "stop: got 17 strings, allowed is at most 16 strings"),
    (
        COMPLETIONS,
        {"last_turn": True},
        "last_turn: got true, allowed is nothing without session_id, which names the program",
    ),
]


def body_of(path: str, changes: dict[str, object]) -> str:
    good: dict[str, object] = {}
    if path == CHAT:
        good = {"messages": USER_SAYS_HI}
    if path == COMPLETIONS:
        good = {"prompt": "hello"}
    return json.dumps({name: value for name, value in {**good, **changes}.items() if value is not ...})


@pytest.mark.parametrize(("path", "changes", "sentence"), CASES, ids=[case[2][:60] for case in CASES])
async def test_an_error_says_in_one_sentence_what_to_change(
    path: str, changes: dict[str, object], sentence: str
) -> None:
    async with http_app(FakeGenerator()) as service:
        content = body_of(path, changes)
        response = await service.http.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert error_of(response)["message"] == sentence
    assert not _FOREIGN.search(sentence)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "body: got nothing, allowed is a JSON object"), (b"null", "body: got null, allowed is a JSON object")],
)
async def test_no_body_is_told_from_null(content: bytes, words: str) -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.http.post(COMPLETIONS, content=content, headers={"content-type": "application/json"})
    assert error_of(response)["message"] == words


async def test_what_a_library_says_of_a_structure_is_one_line() -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(COMPLETIONS, prompt="hello", guided_regex="(")
    message = error_of(response)["message"]
    assert message.startswith("guided_regex: got '(', allowed is one that can be followed: ")
    assert not _FOREIGN.search(message)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "limit: got '0', allowed is at least 1"),
        ("limit=101", "limit: got '101', allowed is at most 100"),
        ("limit=many", "limit: got 'many', allowed is an integer"),
    ],
)
async def test_a_bad_query_is_told_of_like_a_field(query: str, words: str) -> None:
    async with http_app(FakeGenerator()) as service:
        assert error_of(await service.http.get(f"/v1/batches?{query}"))["message"] == words


async def test_over_grpc_no_error_speaks_of_python() -> None:
    facts = model_facts(served_model())
    async with running(FakeGenerator()) as service:
        for case in BAD_INPUT_CASES:
            details = (await send(service.channel, case.method, case.build(facts))).details
            assert not _FOREIGN.search(details), details
