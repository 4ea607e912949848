import json

import pytest
from qllm.client.bench.errors import RequestFailed
from qllm.client.bench.load.openai_events import OpenAIStream
from qllm.client.bench.load.target import Chunk, Ending

FINISHED = json.dumps({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})


def event(**choice: object) -> str:
    return json.dumps({"choices": [{"index": 0, **choice}]})


@pytest.mark.parametrize(
    ("choice", "chunk"),
    [
        ({"text": "hello"}, Chunk(1, is_exact=False)),
        ({"text": ""}, None),
        ({"text": "", "token_ids": [5]}, Chunk(1, token_ids=(5,))),
        ({"text": "several", "token_ids": [5, 6, 7]}, Chunk(3, token_ids=(5, 6, 7))),
        ({"text": "held back", "token_ids": []}, None),
        ({"text": "x", "token_ids": None}, Chunk(1, is_exact=False)),
        ({"delta": {"role": "assistant", "content": ""}}, None),
        ({"delta": {"content": "hi"}}, Chunk(1, is_exact=False)),
        ({"delta": {"reasoning_content": "hm"}}, Chunk(1, is_exact=False)),
        ({"delta": {"content": "hi"}, "token_ids": [1, 2]}, Chunk(2, token_ids=(1, 2))),
        ({"delta": None, "text": None}, None),
    ],
)
def test_tokens_of_an_event(choice: dict[str, object], chunk: Chunk | None) -> None:
    assert OpenAIStream().feed(event(**choice)) == chunk


def test_the_ending_holds_what_the_server_said() -> None:
    stream = OpenAIStream()
    assert stream.feed(FINISHED) is None
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    assert stream.feed(json.dumps({"choices": [], "usage": usage, "metrics": {"queue_time_ms": 1.5}})) is None
    assert stream.feed("[DONE]") is None
    assert stream.end() == Ending(3, 7, 1.5)


def test_tokens_found_in_a_cache_are_told_where_the_server_says_them() -> None:
    stream = OpenAIStream()
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    stream.feed(json.dumps({"choices": [], "usage": usage}))
    stream.feed(json.dumps({"choices": [], "usage": usage | {"prompt_tokens_details": None}}))
    stream.feed("[DONE]")
    assert stream.end() == Ending(3, 7, None, 4)


def test_usage_that_grows_along_the_way_is_taken_from_its_last_event() -> None:
    stream = OpenAIStream()
    for count in (1, 2, 3):
        stream.feed(json.dumps({"choices": [{"text": "x"}], "usage": {"completion_tokens": count}}))
    stream.feed(json.dumps({"choices": [{"text": "", "finish_reason": "stop"}], "usage": None}))
    assert stream.end() == Ending(3, None, None)


@pytest.mark.parametrize("last", ["[DONE]", " [DONE] ", FINISHED])
def test_a_stream_ends_well_with_done_or_with_a_finish_reason(last: str) -> None:
    stream = OpenAIStream()
    stream.feed(last)
    assert stream.end() == Ending()


def test_a_stream_that_breaks_off_is_a_failure() -> None:
    stream = OpenAIStream()
    stream.feed(event(text="hello"))
    with pytest.raises(RequestFailed) as caught:
        stream.end()
    assert caught.value.kind == "stream cut"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"error": {"message": "out of memory"}}', "error in stream"),
        ('{"error": "it broke"}', "error in stream"),
        ("{", "unreadable stream"),
        ("[1, 2]", "unreadable stream"),
        ('{"choices": ["x"]}', "unreadable stream"),
    ],
)
def test_errors_and_nonsense_in_a_stream_are_failures(text: str, kind: str) -> None:
    with pytest.raises(RequestFailed) as caught:
        OpenAIStream().feed(text)
    assert caught.value.kind == kind


@pytest.mark.parametrize("text", ["{}", '{"choices": []}', '{"choices": null}', '{"object": "ping"}'])
def test_events_without_tokens_are_passed_over(text: str) -> None:
    assert OpenAIStream().feed(text) is None
