"""How a prompt, and the probabilities of its tokens, come back over HTTP."""

import math
import threading
from typing import Any

import pytest

from scheduler_svc.api.deltas import Delta
from scheduler_svc.api.openai import answer as answers
from scheduler_svc.api.openai import completions
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import BOS_ID, EOS_ID, byte_level_tokenizer
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import CHAT, COMPLETIONS, USER_SAYS_HI, error_of, http_app

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())


def encode(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=True))


async def choice_of(**body: object) -> dict[str, Any]:
    async with http_app(FakeGenerator()) as service:
        [choice] = (await service.answer(COMPLETIONS, **body))["choices"]
    return dict(choice)


def told(num_tokens: int) -> list[float | None]:
    """What the fake says of a prompt's tokens."""
    return [None, *(-0.25 * place for place in range(1, num_tokens))]


async def test_the_prompt_alone_is_echoed_where_no_token_is_asked_for() -> None:
    choice = await choice_of(prompt="hello 日本", echo=True, max_tokens=0, logprobs=1)
    ids = encode("hello 日本")
    assert (choice["text"], choice["finish_reason"]) == ("hello 日本", "length")
    assert choice["logprobs"]["token_logprobs"] == told(len(ids))
    assert len(choice["logprobs"]["tokens"]) == len(ids)
    assert choice["logprobs"]["top_logprobs"][0] is None
    assert all(len(top) == 2 for top in choice["logprobs"]["top_logprobs"][1:])


async def test_prompt_and_answer_are_one_text_whose_tokens_say_where_they_begin() -> None:
    choice = await choice_of(prompt="hello you", echo=True, max_tokens=3, logprobs=0)
    ids = encode("hello you")
    shown = choice["logprobs"]
    assert shown["token_logprobs"] == [*told(len(ids)), -0.5, -0.5, -0.5]
    for token, offset in zip(shown["tokens"], shown["text_offset"], strict=True):
        assert choice["text"].startswith(token, offset)
    assert choice["text"].startswith("hello you")
    assert "".join(shown["tokens"]) == choice["text"]


async def test_special_tokens_of_a_prompt_of_ids_are_part_of_its_echo() -> None:
    ids = [BOS_ID, *encode("hello"), EOS_ID, *encode(" you")]
    choice = await choice_of(prompt=ids, echo=True, max_tokens=0, logprobs=0)
    assert choice["text"] == TOKENIZER.decode(ids, with_special_tokens=True)
    shown = choice["logprobs"]
    for token, offset in zip(shown["tokens"], shown["text_offset"], strict=True):
        assert choice["text"].startswith(token, offset)


async def test_a_prompt_of_one_token_is_echoed_with_nothing_told_of_it() -> None:
    choice = await choice_of(prompt=encode("hello")[:1], echo=True, max_tokens=0, logprobs=2)
    assert choice["logprobs"]["token_logprobs"] == choice["logprobs"]["top_logprobs"] == [None]


@pytest.mark.parametrize("max_tokens", [0, 2])
@pytest.mark.parametrize("logprobs", [None, 0, 2])
async def test_streamed_parts_add_up_to_the_whole(max_tokens: int, logprobs: int | None) -> None:
    body: dict[str, Any] = {
        "prompt": [encode("hello you there"), encode("bye")],
        "echo": True,
        "max_tokens": max_tokens,
    }
    body |= {} if logprobs is None else {"logprobs": logprobs}
    async with http_app(FakeGenerator()) as service:
        whole = (await service.answer(COMPLETIONS, **body, n=2))["choices"]
        chunks = await service.chunks(COMPLETIONS, **body, n=2)
    parts: list[list[dict[str, Any]]] = [[] for _ in whole]
    for chunk in chunks:
        [part] = chunk["choices"]
        parts[part["index"]].append(part)
    for choice, mine in zip(whole, parts, strict=True):
        assert "".join(part["text"] for part in mine) == choice["text"]
        for column in choice["logprobs"] or ():
            assert [one for part in mine for one in part["logprobs"][column]] == choice["logprobs"][column]
        assert [part["finish_reason"] for part in mine][-1] == "length"


@pytest.mark.parametrize("most_numbers", [1, 6, 1024])
async def test_a_long_echo_is_streamed_in_bounded_pieces_that_are_written_beside_the_event_loop(
    most_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_NUMBERS_PER_CHUNK", most_numbers)
    written_by: list[tuple[bool, threading.Thread]] = []
    write = completions._CompletionChoice.part

    def noted(choice: completions._CompletionChoice, delta: Delta) -> dict[str, object]:
        written_by.append((delta.scores is not None, threading.current_thread()))
        return write(choice, delta)

    monkeypatch.setattr(completions._CompletionChoice, "part", noted)
    generator = FakeGenerator(scores_per_event=100)
    body: dict[str, Any] = {"prompt": encode("hello you there"), "echo": True, "max_tokens": 2, "logprobs": 2}
    async with http_app(generator) as service:
        [whole] = (await service.answer(COMPLETIONS, **body))["choices"]
        written_by.clear()
        parts = [chunk["choices"][0] for chunk in await service.chunks(COMPLETIONS, **body)]
    assert [one for part in parts for one in part["logprobs"]["tokens"]] == whole["logprobs"]["tokens"]
    assert [one for part in parts for one in part["logprobs"]["top_logprobs"]] == whole["logprobs"]["top_logprobs"]
    assert "".join(part["text"] for part in parts) == whole["text"]
    first, *others = [len(part["logprobs"]["tokens"]) for part in parts]
    assert max(first - 1, *others) <= max(1, most_numbers // 3)  # the first has the token of which nothing is told
    assert {is_scored for is_scored, _ in written_by} == {True, False}
    for is_scored, thread in written_by:
        assert is_scored is (thread is not threading.main_thread())


async def test_an_echo_without_log_probabilities_asks_for_none() -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        await service.answer(COMPLETIONS, prompt="hello", echo=True)
        await service.answer(COMPLETIONS, prompt="hello", echo=True, max_tokens=0)
        await service.answer(COMPLETIONS, prompt="hello", echo=True, logprobs=3, prompt_logprobs=1)
        await service.answer(COMPLETIONS, prompt="hello", logprobs=3)
    asked = [request.sampling.num_prompt_logprobs for request in generator.submitted]
    assert asked == [None, 0, 3, None]


async def test_prompt_logprobs_are_lists_of_tokens_by_id() -> None:
    ids = encode("hello you")
    choice = await choice_of(prompt="hello you", prompt_logprobs=2, max_tokens=1, echo=True, logprobs=5)
    first, *others = choice["prompt_logprobs"]
    assert first is None
    assert len(others) == len(ids) - 1
    for place, (token_id, entry) in enumerate(zip(ids[1:], others, strict=True), start=1):
        assert next(iter(entry)) == str(token_id)
        assert entry[str(token_id)]["logprob"] == -0.25 * place
        assert entry[str(token_id)]["rank"] == 7
        assert entry[str(token_id)]["decoded_token"] == TOKENIZER.decode([token_id])
        assert set(entry) == {str(token_id), "3", "4"}
        assert entry["4"] == {"logprob": -2.0, "rank": 2, "decoded_token": TOKENIZER.decode([4])}
    assert all(len(top) == 6 for top in choice["logprobs"]["top_logprobs"][1 : len(ids)])


async def test_of_a_conversation_they_stand_beside_the_choices() -> None:
    async with http_app(FakeGenerator()) as service:
        answer = await service.answer(CHAT, messages=USER_SAYS_HI, prompt_logprobs=0, max_tokens=1, n=2)
        assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
        assert not any("prompt_logprobs" in choice for choice in answer["choices"])
        without = await service.answer(CHAT, messages=USER_SAYS_HI, max_tokens=1)
        assert "prompt_logprobs" not in without
        empty = await service.answer(CHAT, messages=USER_SAYS_HI, prompt_logprobs=0, max_tokens=0)
    assert empty["choices"][0]["message"]["content"] == ""


async def test_they_are_refused_in_a_stream() -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(COMPLETIONS, prompt="hello", prompt_logprobs=1, stream=True)
    assert response.status_code == 400
    assert error_of(response)["param"] == "prompt_logprobs"


async def test_more_of_them_than_an_answer_may_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler_svc.api.sampling.MAX_PROMPT_LOGPROBS", 60)
    assert answers.require_prompt_numbers(60) is None  # type: ignore[func-returns-value]
    async with http_app(FakeGenerator()) as service:
        body: dict[str, Any] = {"prompt": [5] * 10, "max_tokens": 0, "echo": True, "logprobs": 2}
        assert len((await service.answer(COMPLETIONS, **body, n=2))["choices"]) == 2
        response = await service.post(COMPLETIONS, **body, n=3)
        assert response.status_code == 400
        error = error_of(response)
    assert error["param"] == "logprobs"
    assert "90 log-probabilities" in error["message"]


async def test_the_chosen_token_is_among_its_alternatives_in_completions() -> None:
    async with http_app(FakeGenerator(script=lambda _: encode("z"))) as service:
        [choice] = (await service.answer(COMPLETIONS, prompt="hello", logprobs=0))["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"z": -0.5}]


async def test_probabilities_of_zero_are_numbers_that_json_has() -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        response = await service.post(COMPLETIONS, prompt=[5] * 3, echo=True, max_tokens=0, logprobs=1)
    assert math.isfinite(min(response.json()["choices"][0]["logprobs"]["token_logprobs"][1:]))


async def test_a_prompt_is_cut_to_its_last_tokens() -> None:
    generator = FakeGenerator()
    ids = encode("hello you there and everybody else")
    async with http_app(generator) as service:
        [choice] = (
            await service.answer(
                COMPLETIONS, prompt="hello you there and everybody else", truncate_prompt_tokens=4, echo=True
            )
        )["choices"]
        await service.answer(COMPLETIONS, prompt=[7] * 2000, truncate_prompt_tokens=-1, max_tokens=12)
        await service.answer(COMPLETIONS, prompt="you " * 2000, truncate_prompt_tokens=-1)
        await service.answer(CHAT, messages=[{"role": "user", "content": "you " * 2000}], truncate_prompt_tokens=-1)
    cut, of_ids, of_text, of_chat = (request.prompt_token_ids for request in generator.submitted)
    assert list(cut) == ids[-4:]
    assert choice["text"].startswith(TOKENIZER.decode(cut))
    assert [len(of_ids), len(of_text), len(of_chat)] == [500, 496, 256]


@pytest.mark.parametrize("adds", [None, True, False])
async def test_special_tokens_around_a_text_may_be_left_out(adds: bool | None) -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        await service.answer(COMPLETIONS, prompt="hello", add_special_tokens=adds)
    [request] = generator.submitted
    assert list(request.prompt_token_ids) == list(TOKENIZER.encode("hello", add_special_tokens=adds is not False))


@pytest.mark.parametrize("tokens_per_event", [1, 4, 100])
async def test_what_ends_a_text_is_a_part_of_it_if_asked_for(tokens_per_event: int) -> None:
    script = [*encode("one two three"), EOS_ID]
    async with http_app(FakeGenerator(script=lambda _: script, tokens_per_event=tokens_per_event)) as service:
        body: dict[str, Any] = {"prompt": "hello", "include_stop_str_in_output": True}
        texts = [
            (await service.answer(COMPLETIONS, **body, **more))["choices"][0]["text"]
            for more in ({"stop": " two"}, {"stop_token_ids": script[2:3]}, {"stop": "</s>"}, {})
        ]
    through = TOKENIZER.decode(script[: script.index(script[2]) + 1])
    assert texts == ["one two", through, "one two three</s>", "one two three"]
