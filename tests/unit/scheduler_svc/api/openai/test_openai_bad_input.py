"""Every bad input gets an error of OpenAI's form that names the field, and nothing of it reaches the generator."""

import asyncio
import gzip
import json
from dataclasses import dataclass

import pytest

from scheduler_svc.api.openai.connections.guard import MAX_BODY_BYTES
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.openai_service import CHAT, COMPLETIONS, USER_SAYS_HI, error_of, http_app, running_http

HUGE = 10**30


@dataclass(frozen=True)
class Case:
    """A field with a bad value, the parameter that the error must name, and words that it must have."""

    field: str
    value: object
    words: tuple[str, ...]
    param: str | None = None
    path: str = COMPLETIONS


def chat(field: str, value: object, words: tuple[str, ...], param: str | None = None) -> Case:
    return Case(field, value, words, param, CHAT)


def message(**fields: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": "hi", **fields}]


CASES = (
    # prompts
    Case("prompt", None, ("got null", "string", "token ids")),
    Case("prompt", 5, ("got 5", "string", "token ids")),
    Case("prompt", {"a": None}, ("{'a': null}", "string", "token ids")),
    Case("prompt", "", ("''", "not empty")),
    Case("prompt", [], ("0 tokens", "1 to 511")),
    Case("prompt", [5, -1], ("-1", "[0, 399]"), "prompt[1]"),
    Case("prompt", [5, 400], ("400", "[0, 399]"), "prompt[1]"),
    Case("prompt", [5, HUGE], (str(HUGE), "[0, 399]"), "prompt[1]"),
    Case("prompt", [5, "a"], ("'a'", "integer"), "prompt[1]"),
    Case("prompt", [5, 1.0], ("1.0", "integer"), "prompt[1]"),
    Case("prompt", [True], ("True", "integer"), "prompt[0]"),
    Case("prompt", [5] * 512, ("512 tokens", "511")),
    Case("prompt", ["hello", ""], ("''", "not empty"), "prompt[1]"),
    Case("prompt", ["hello", 5], ("got 5", "string"), "prompt[1]"),
    Case("prompt", [[5], []], ("0 tokens",), "prompt[1]"),
    Case("prompt", [[5], [6, 1000]], ("1000", "[0, 399]"), "prompt[1][1]"),
    Case("prompt", [[5], "a"], ("'a'", "list"), "prompt[1]"),
    Case("prompt", ["a"] * 129, ("128",)),
    Case("prompt", "\ud800", ("surrogate",)),
    # limits and sampling
    Case("max_tokens", 0, ("got 0", "1 to 511", "0 only where")),
    Case("max_tokens", -1, ("got -1",)),
    Case("max_tokens", HUGE, (str(HUGE), "1 to 511")),
    Case("max_tokens", 511, ("511", "of the prompt")),
    Case("prompt", ["x"] * 129, ("got 129 items, allowed is at most 128 items",)),
    Case("prompt", [[1]] * 129, ("got 129 items, allowed is at most 128 items",)),
    Case("stream_options", 3, ("got 3, allowed is an object",)),
    Case("max_tokens", "5", ("'5'", "integer")),
    Case("max_tokens", 2.5, ("2.5", "integer")),
    Case("max_completion_tokens", 512, ("512", "1 to 511")),
    Case("min_tokens", -1, ("got -1",)),
    Case("min_tokens", 17, ("17", "max_tokens, which is 16")),
    Case("temperature", -0.1, ("-0.1", "[0, 100]")),
    Case("temperature", 101, ("101", "[0, 100]")),
    Case("temperature", float("nan"), ("nan", "finite number")),
    Case("temperature", float("inf"), ("inf", "finite number")),
    Case("temperature", "hot", ("'hot'", "number")),
    Case("temperature", True, ("True", "number")),
    Case("top_p", 0, ("(0, 1]",)),
    Case("top_p", 1.5, ("1.5", "(0, 1]")),
    Case("top_k", -2, ("-2", "[0, 400]")),
    Case("top_k", 401, ("401", "[0, 400]")),
    Case("min_p", -0.5, ("-0.5", "[0, 1]")),
    Case("seed", 2**63, (str(2**63), "64 bits")),
    Case("seed", -(2**63) - 1, ("64 bits",)),
    Case("ignore_eos", "yes", ("'yes'", "boolean")),
    Case("ignore_eos", 1, ("got 1", "boolean")),
    # targets
    Case("ttft_ms", -1, ("got -1", "[0, 3600000]")),
    Case("ttft_ms", 3_600_001, ("3600001", "[0, 3600000]")),
    Case("ttft_ms", float("nan"), ("nan", "finite number")),
    Case("ttft_ms", "soon", ("'soon'", "number")),
    Case("ttft_ms", True, ("True", "number")),
    Case("tpot_ms", -0.1, ("-0.1", "[0, 60000]")),
    Case("tpot_ms", 60_001, ("60001", "[0, 60000]")),
    Case("tpot_ms", float("inf"), ("inf", "finite number")),
    Case("tpot_ms", [50], ("[50]", "number")),
    Case("targets", {"ttft_ms": 5}, ("no such field",)),
    # reuse of the cache
    Case("cache_salt", "é" * 65, ("130 bytes", "at most 128 bytes")),
    Case("cache_salt", 5, ("got 5", "string")),
    Case("cache_salt", "\ud83d", ("surrogate",)),
    Case("session_id", "", ("got ''", "1 to 128 printable ASCII")),
    Case("session_id", "a\tb", ("printable",)),
    Case("session_id", 7, ("got 7", "string")),
    Case("expects_tool_call", "search", ("'search'", "nothing without session_id")),
    Case("expects_tool_call", {"name": "search"}, ("string",)),
    Case("last_turn", True, ("got true", "nothing without session_id")),
    Case("last_turn", "yes", ("'yes'", "boolean")),
    Case("session", {"session_id": "s"}, ("no such field",)),
    # stops
    Case("stop", 5, ("got 5", "string or a list of strings")),
    Case("stop", [""], ("''", "256 bytes"), "stop[0]"),
    Case("stop", ["a", 5], ("got 5", "string"), "stop[1]"),
    Case("stop", ["a", "b" * 257], ("257 bytes",), "stop[1]"),
    Case("stop", ["x"] * 17, ("17 strings", "16")),
    Case("stop", "\udfff", ("surrogate",)),
    Case("stop_token_ids", [400], ("400", "[0, 399]"), "stop_token_ids[0]"),
    Case("stop_token_ids", [5] * 65, ("65 ids", "64")),
    # choices, streams, tiers
    Case("n", 0, ("got 0", "1 to 128")),
    Case("n", 129, ("129", "1 to 128")),
    Case("n", "2", ("'2'", "integer")),
    Case("stream", "true", ("'true'", "boolean")),
    Case("stream_options", {"include_usage": True}, ("stream is true",)),
    Case("stream_options", {"usage": True}, ("no such field",), "stream_options.usage"),
    Case("stream_options", [], ("[]",)),
    Case("service_tier", "gold", ("'gold'", "'flex'", "'priority'")),
    Case("service_tier", 1, ("'flex'",)),
    Case("logprobs", 21, ("got 21", "[0, 20]")),
    Case("logprobs", True, ("True", "integer")),
    Case("logit_bias", {"5": 101}, ("got 101", "[-100, 100]"), "logit_bias[5]"),
    Case("logit_bias", {"five": 1}, ("'five'", "token ids as keys")),
    Case("logit_bias", {"05": 1, "5": 1}, ("'5'", "each once")),
    Case("logit_bias", {"5": "much"}, ("'much'", "number"), "logit_bias.5"),
    Case("presence_penalty", 2.5, ("2.5", "[-2, 2]")),
    Case("frequency_penalty", -3, ("[-2, 2]",)),
    Case("repetition_penalty", 0, ("got 0", "[0.01, 100]")),
    Case("bad_words", [""], ("1 to 256",), "bad_words[0]"),
    Case("bad_words", "the", ("'the'", "list")),
    Case("allowed_token_ids", [], ("[]", "at least one")),
    Case("allowed_token_ids", [-1], ("got -1",), "allowed_token_ids[0]"),
    # what would change the output and is not supported
    Case("echo", "yes", ("'yes'", "boolean")),
    Case("best_of", 0, ("got 0", "1 to 128")),
    Case("best_of", 129, ("got 129", "1 to 128")),
    Case("use_beam_search", "yes", ("'yes'", "boolean")),
    Case("use_beam_search", True, ("null", "best_of or n"), "beam_width"),
    Case("beam_width", 0, ("got 0", "[1, 16]")),
    Case("beam_width", 17, ("got 17", "[1, 16]")),
    Case("beam_width", 2.5, ("2.5", "integer")),
    Case("length_penalty", 2, ("2.0", "1 or null", "use_beam_search")),
    Case("early_stopping", True, ("true", "false or null", "use_beam_search")),
    Case("early_stopping", "soon", ("'soon'", "true, false")),
    Case("patience", 2, ("2.0", "1 or null", "use_beam_search")),
    Case("suffix", "end", ("'end'",)),
    Case("response_format", {"type": "xml"}, ("'xml'", "'json_schema'"), "response_format.type"),
    Case("response_format", {"type": "json_schema"}, ("name and schema",), "response_format.json_schema"),
    Case(
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "a"}},
        ("required",),
        "response_format.json_schema.schema",
    ),
    Case(
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "wrong"}}},
        ("Invalid type",),
        "response_format.json_schema.schema",
    ),
    Case("structured_outputs", {"regex": "("}, ("unclosed",), "structured_outputs.regex"),
    Case("structured_outputs", {"regex": "a", "choice": ["b"]}, ("beside",), "structured_outputs.choice"),
    Case("structured_outputs", {"structural_tag": "a"}, ("null: nothing",), "structured_outputs.structural_tag"),
    Case("structured_outputs", {"tag": "a"}, ("no such field",), "structured_outputs.tag"),
    Case(
        "structured_outputs",
        {"regex": "a", "whitespace_pattern": " "},
        ("got ' '", "nothing else is supported"),
        "structured_outputs.whitespace_pattern",
    ),
    Case("guided_whitespace_pattern", " ", ("got ' '", "nothing else is supported")),
    Case("guided_decoding_backend", "outlines", ("'outlines'", "'auto' or 'guidance'")),
    Case("guided_json", 5, ("got 5", "as an object or as a string")),
    Case("guided_choice", [], ("at least one",)),
    Case("guided_grammar", "start: nothing", ("unknown name",)),
    Case("prompt_logprobs", -1, ("got -1", "[0, 20]")),
    Case("prompt_logprobs", 21, ("got 21", "[0, 20]")),
    Case("prompt_logprobs", 0.5, ("0.5", "integer")),
    Case("truncate_prompt_tokens", 0, ("got 0", "-1, or 1 to 511")),
    Case("truncate_prompt_tokens", 512, ("got 512", "1 to 511")),
    Case("truncate_prompt_tokens", -2, ("got -2",)),
    Case("typical_p", 0, ("(0, 1]",)),
    Case("typical_p", 1.1, ("1.1", "(0, 1]")),
    Case("include_stop_str_in_output", 1, ("got 1", "boolean")),
    Case("add_special_tokens", "no", ("'no'", "boolean")),
    Case("priority", "high", ("'high'", "integer")),
    Case("priority", 0.5, ("0.5", "integer")),
    Case("unheard_of", None, ("no such field",)),
    Case("<text>", 1, ("no such field",)),
    Case("x" * 1000, 1, ("no such field",), "x" * 100),
    # conversations
    chat("messages", None, ("null", "list")),
    chat("messages", [], ("0 messages", "1 to 4096")),
    chat("messages", "hi", ("'hi'", "list")),
    chat("messages", ["hi"], ("'hi'",), "messages[0]"),
    chat("messages", message(role=""), ("''", "printable"), "messages[0].role"),
    chat("messages", message(role="a\nb"), ("printable",), "messages[0].role"),
    chat("messages", message(role="robot"), ("unknown role",)),
    chat("messages", [*USER_SAYS_HI, {"role": "user"}], ("null", "parts of type text"), "messages[1].content"),
    chat("messages", message(content=None), ("null", "parts of type text"), "messages[0].content"),
    chat("messages", message(content=5), ("got 5", "parts of type text"), "messages[0].content"),
    chat("messages", message(content="\ud83d"), ("surrogate",), "messages[0].content"),
    chat(
        "messages", message(content=[{"type": "image_url"}]), ("'image_url'", "'text'"), "messages[0].content[0].type"
    ),
    chat("messages", message(content=[{"type": "text"}]), ("required",), "messages[0].content[0].text"),
    chat("messages", message(name=5), ("got 5", "string"), "messages[0].name"),
    chat("messages", message(tool_calls=[{}]), ("required",), "messages[0].tool_calls[0].id"),
    chat("messages", message(weight=1), ("no such field",), "messages[0].weight"),
    chat("messages", message() * 4097, ("4096",)),
    chat("messages", message(content="word " * 600), ("tokens", "511")),
    chat("max_tokens", 511, ("511", "of the prompt")),
    chat("tools", [{"type": "function"}], ("required",), "tools[0].function"),
    chat("tool_choice", "required", ("'required'", "none or auto without tools")),
    chat("top_logprobs", 2, ("got 2", "0 or null")),
    chat("top_logprobs", -1, ("got -1",)),
    chat("logprobs", 1, ("got 1", "boolean")),
    chat("ttft_ms", -1, ("got -1", "[0, 3600000]")),
    chat("tpot_ms", HUGE, ("[0, 60000]",)),
    chat("cache_salt", "x" * 129, ("129 bytes",)),
    chat("session_id", "x" * 129, ("1 to 128",)),
    chat("expects_tool_call", "search", ("nothing without session_id",)),
    chat("reasoning_effort", "high", ("'high'", "nothing")),
    chat("chat_template", "{{ 1 }}", ("null",)),
    chat("prompt", "hello", ("no such field",)),
)
UNREADABLE = {
    "nothing": b"",
    "an open brace": b"{",
    "two objects": b'{"prompt": "a"} {}',
    "no UTF-8": b'{"prompt": "\xff"}',
    "nested too deeply": b"[" * 200_000,
    "a number of too many digits": b'{"prompt": [' + b"9" * 5000 + b"]}",
    "a list": b"[]",
    "a text": b'"prompt"',
    "null": b"null",
}


def test_the_table_is_large() -> None:
    assert len(CASES) >= 90


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.field[:20]}={str(case.value)[:30]!r}")
async def test_bad_value_is_refused_with_its_name(case: Case) -> None:
    good = {"messages": USER_SAYS_HI} if case.path == CHAT else {"prompt": "hello"}
    async with http_app(FakeGenerator()) as service:
        raw = json.dumps({**good, case.field: case.value})
        response = await service.http.post(case.path, content=raw, headers={"content-type": "application/json"})
        assert response.status_code == 400, response.text
        error = error_of(response)
        assert error["type"] == "invalid_request_error"
        assert error["param"] == (case.param or case.field)
        assert error["message"].startswith(f"{error['param']}: ")
        assert all(word.lower() in error["message"].lower() for word in case.words), error["message"]
        assert len(error["message"]) < 700
        assert service.generator.submitted == []
        await service.answer(COMPLETIONS, prompt="hello")


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_body_that_is_no_object_is_refused(raw: bytes, path: str) -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.http.post(path, content=raw, headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert error_of(response)["param"] == "body"
        assert "JSON object" in error_of(response)["message"]


async def test_two_limits_that_differ_are_refused() -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(COMPLETIONS, prompt="hello", max_tokens=2, max_completion_tokens=3)
        assert error_of(response)["param"] == "max_tokens"
        assert (await service.post(COMPLETIONS, prompt="a", max_tokens=2, max_completion_tokens=2)).status_code == 200


@pytest.mark.parametrize(
    "structure", [{"guided_regex": "a"}, {"structured_outputs": {"regex": "a"}}, {"guided_choice": ["a"]}]
)
async def test_a_structure_is_refused_where_there_is_no_text_to_keep_to_it(structure: dict[str, object]) -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(COMPLETIONS, prompt="hello", echo=True, max_tokens=0, **structure)
        assert "no text to keep" in error_of(response)["message"]
        assert error_of(response)["param"].startswith(next(iter(structure)))
        assert service.generator.submitted == []


async def test_too_many_choices_in_all_are_refused() -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(COMPLETIONS, prompt=["a"] * 20, n=10)
        assert response.status_code == 400
        assert error_of(response)["param"] == "n"


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_model_that_is_not_served_is_not_found(path: str) -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(path, model="gpt-5", prompt="a") if path == COMPLETIONS else None
        response = response or await service.post(path, model="gpt-5", messages=USER_SAYS_HI)
        assert response.status_code == 404
        error = error_of(response)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "'gpt-5'" in error["message"]
        assert "'fake'" in error["message"]


@pytest.mark.parametrize("has_length", [True, False], ids=["length told", "in pieces"])
async def test_body_that_is_too_large_is_refused(has_length: bool) -> None:
    raw = b'{"prompt": "' + b"a" * MAX_BODY_BYTES + b'"}'

    async def pieces() -> object:
        for start in range(0, len(raw), 1 << 16):
            yield raw[start : start + (1 << 16)]

    async with http_app(FakeGenerator()) as service:
        content = raw if has_length else pieces()
        headers = {"content-type": "application/json"}
        response = await service.http.post(COMPLETIONS, content=content, headers=headers)  # type: ignore[arg-type]
        assert response.status_code == 413
        assert str(MAX_BODY_BYTES) in error_of(response)["message"]
        await service.answer(COMPLETIONS, prompt="hello")


@pytest.mark.parametrize(
    ("path", "length"),
    [(COMPLETIONS, 99_999_999_999), (COMPLETIONS, MAX_BODY_BYTES + 1), ("/v1/files", 99_999_999_999)],
)
async def test_a_body_that_is_said_to_be_too_large_is_refused_before_it_comes(path: str, length: int) -> None:
    async with running_http(FakeGenerator()) as service:
        reader, writer = await asyncio.open_connection(*service.server.address.split(":"))
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {length}\r\n\r\n{{".encode())
        async with asyncio.timeout(20):  # of the 60 s that a body may take
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "x" * 1000])
async def test_a_body_that_is_packed_is_not_unpacked(coding: str) -> None:
    packed = gzip.compress(b'{"prompt": "' + b"a" * 1000 + b'"}')
    generator = FakeGenerator()
    async with http_app(generator) as service:
        headers = {"content-type": "application/json", "content-encoding": coding}
        response = await service.http.post(COMPLETIONS, content=packed, headers=headers)
        assert response.status_code == 415
        assert error_of(response)["message"].startswith(f"content-encoding: got '{coding[:50]}")
        headers["content-encoding"] = "identity"
        plain = await service.http.post(COMPLETIONS, content=b'{"prompt": "hello"}', headers=headers)
        assert plain.status_code == 200
    assert len(generator.submitted) == 1


@pytest.mark.parametrize(
    ("changes", "path", "body", "param"),
    [
        ({"tokenizer_json": b""}, COMPLETIONS, {"prompt": "hello"}, "prompt"),
        ({"tokenizer_json": b""}, CHAT, {"messages": USER_SAYS_HI}, "messages"),
        ({"tokenizer_json": b""}, COMPLETIONS, {"prompt": [5], "stop": "a"}, "stop"),
        ({"chat_template": ""}, CHAT, {"messages": USER_SAYS_HI}, "messages"),
        ({"chat_template": "{% if"}, CHAT, {"messages": USER_SAYS_HI}, "messages"),
    ],
)
async def test_what_the_model_cannot_take_is_refused(
    changes: dict[str, object], path: str, body: dict[str, object], param: str
) -> None:
    async with http_app(FakeGenerator(model=served_model(**changes))) as service:
        response = await service.post(path, **body)
        assert response.status_code == 400
        assert error_of(response)["param"] == param


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", COMPLETIONS, 405), ("POST", "/v1/embeddings", 404), ("DELETE", "/health", 405)],
)
async def test_unknown_paths_and_methods_get_an_error_of_the_same_form(method: str, path: str, status: int) -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.http.request(method, path)
        assert response.status_code == status
        assert path in error_of(response)["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/" + "a" * 60_000), ("A" * 60_000, "/health")])
async def test_what_was_asked_for_is_quoted_in_short(method: str, path: str) -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.http.request(method, path)
        assert response.status_code in {404, 405}
        assert len(error_of(response)["message"]) < 300
