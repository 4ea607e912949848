"""n, best_of and beam searches over HTTP: what is asked of the generator, and what becomes the choices."""

import json
from typing import Any

import pytest

from scheduler_svc.core.beams.params import BeamParams, EarlyStopping
from scheduler_svc.generation import GenerationRequest, TokenEvent
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.service.fakes import FakeGenerator, FakeStream
from tests.support.service.openai_service import CHAT, COMPLETIONS, USER_SAYS_HI, error_of, http_app

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())
WORDS = list(TOKENIZER.encode("abc", add_special_tokens=False))
SEARCHES = (
    ({"use_beam_search": True, "beam_width": 4}, BeamParams(4)),
    ({"beam_width": 4, "n": 2}, BeamParams(4, 2)),
    ({"use_beam_search": True, "best_of": 5, "n": 3}, BeamParams(5, 3)),
    ({"use_beam_search": True, "n": 3}, BeamParams(3, 3)),
    (
        {"beam_width": 4, "length_penalty": -0.5, "early_stopping": True, "patience": 0.5, "n": 2},
        BeamParams(4, 2, -0.5, EarlyStopping.YES, 0.5),
    ),
    ({"beam_width": 2, "early_stopping": "never"}, BeamParams(2, early_stopping=EarlyStopping.NEVER)),
    ({"beam_width": 2, "early_stopping": False, "temperature": 0, "top_p": 1, "top_k": -1, "seed": 3}, BeamParams(2)),
)
REFUSED: tuple[tuple[dict[str, Any], str, tuple[str, ...]], ...] = (
    ({"n": 5}, "n", ("got 5", "1 to 4", "beam width")),
    ({"n": 3, "patience": 0.5}, "n", ("got 3", "1 to 2", "4 x 0.5")),
    ({"temperature": 0.7}, "temperature", ("0.7", "draws no tokens")),
    ({"top_p": 0.9}, "top_p", ("0.9", "draws no tokens")),
    ({"top_k": 5}, "top_k", ("got 5", "draws no tokens")),
    ({"min_p": 0.1}, "min_p", ("0.1", "draws no tokens")),
    ({"logprobs": 3}, "logprobs", ("got 3", "no alternatives")),
    ({"response_format": {"type": "json_object"}}, "response_format", ("no structure",)),
    ({"session_id": "s"}, "session_id", ("'s'", "not known")),
    ({"stop": ["end"]}, "stop[0]", ("'end'", "stop_token_ids")),
    ({"length_penalty": 11}, "length_penalty", ("11", "[-10, 10]")),
    ({"length_penalty": float("nan")}, "length_penalty", ("NaN", "finite number")),
    ({"patience": 0}, "patience", ("(0, 10]",)),
    ({"patience": 11}, "patience", ("11", "(0, 10]")),
)


@pytest.mark.parametrize(("fields", "params"), SEARCHES)
async def test_a_search_is_asked_for_by_its_fields(fields: dict[str, Any], params: BeamParams) -> None:
    async with http_app(FakeGenerator()) as service:
        answer = await service.answer(COMPLETIONS, prompt="hello", **fields)
    (request,) = service.generator.submitted
    assert request.beams == params
    assert request.sampling.temperature == 0
    assert len(answer["choices"]) == params.num_returned


async def test_what_a_search_found_are_the_choices_each_with_its_score() -> None:
    generator = FakeGenerator(script=lambda _: [*WORDS, EOS_ID])
    async with http_app(generator) as service:
        answer = await service.answer(
            COMPLETIONS, prompt=["x", "y"], beam_width=3, n=2, logprobs=0, return_token_ids=True
        )
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    first, second = answer["choices"][:2]
    assert (first["text"], first["finish_reason"], first["score"]) == ("abc", "stop", -0.25)
    assert (second["text"], second["finish_reason"], second["score"]) == ("abc", "length", -0.5)
    assert first["token_ids"] == [*WORDS, EOS_ID]
    assert len(second["logprobs"]["token_logprobs"]) == len(WORDS)
    assert answer["usage"]["completion_tokens"] == 2 * (2 * len(WORDS) + 1)


async def test_a_chats_choices_have_scores_too() -> None:
    async with http_app(FakeGenerator(script=lambda _: [*WORDS, EOS_ID])) as service:
        answer = await service.answer(CHAT, messages=USER_SAYS_HI, use_beam_search=True, n=2)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["abc", "abc"]
    assert [choice["score"] for choice in answer["choices"]] == [-0.25, -0.5]


async def test_a_stream_of_a_search_has_each_choice_at_once_at_the_end() -> None:
    async with http_app(FakeGenerator(script=lambda _: [*WORDS, EOS_ID])) as service:
        *chunks, usage = await service.chunks(
            COMPLETIONS, prompt="x", beam_width=3, n=2, stream_options={"include_usage": True}
        )
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [(one["index"], one["text"], one["score"]) for one in choices] == [(0, "abc", -0.25), (1, "abc", -0.5)]
    assert all(one["finish_reason"] for one in choices)
    assert usage["usage"]["completion_tokens"] == 2 * len(WORDS) + 1


async def test_a_special_token_ends_the_texts_of_a_search() -> None:
    async with http_app(FakeGenerator()) as service:
        await service.answer(COMPLETIONS, prompt="x", beam_width=2, stop=["</s>"], ignore_eos=True)
    assert service.generator.submitted[0].stop.stop_token_ids == (EOS_ID,)


@pytest.mark.parametrize(("fields", "param", "words"), REFUSED)
async def test_what_does_not_go_along_with_a_search_is_refused(
    fields: dict[str, Any], param: str, words: tuple[str, ...]
) -> None:
    async with http_app(FakeGenerator()) as service:
        content = json.dumps({"prompt": "x", "beam_width": 4, **fields})  # with NaN, as no JSON library of a client's
        response = await service.http.post(COMPLETIONS, content=content, headers={"content-type": "application/json"})
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, param)
    assert all(word in error["message"] for word in words), error["message"]
    assert service.generator.submitted == []


async def test_a_width_is_refused_by_the_field_that_gave_it() -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(COMPLETIONS, prompt="x", use_beam_search=True, best_of=17)
    assert error_of(response)["param"] == "best_of"


async def test_without_a_search_its_fields_may_say_what_happens_anyway() -> None:
    harmless = {"use_beam_search": False, "length_penalty": 1, "early_stopping": False, "patience": 1.0, "best_of": 1}
    async with http_app(FakeGenerator()) as service:
        await service.answer(COMPLETIONS, prompt="x", **harmless)
    assert service.generator.submitted[0].beams is None


class Unequal(FakeGenerator):
    """Choices of one prompt whose tokens are each as probable as their seed says."""

    def submit(self, request: GenerationRequest) -> FakeStream:
        stream = super().submit(request)
        stream.next_event = lambda: _event(stream, request)  # type: ignore[method-assign]
        return stream


def _event(stream: FakeStream, request: GenerationRequest) -> TokenEvent:
    event = FakeStream.next_event(stream)
    logprob = {0: -3.0, 1: -1.0, 2: -2.0, 3: -0.5}[request.sampling.seed]
    return TokenEvent(event.token_ids, (logprob,) * len(event.token_ids), event.finish_reason, event.usage)


def _by_seed(request: GenerationRequest) -> list[int]:
    return [100 + request.sampling.seed] * (1 + request.sampling.seed)  # the more probable ones are longer


async def test_of_best_of_those_with_the_most_probable_tokens_are_returned() -> None:
    async with http_app(Unequal(script=_by_seed)) as service:
        answer = await service.answer(COMPLETIONS, prompt="x", n=2, best_of=4, seed=0, return_token_ids=True)
    assert [request.sampling.seed for request in service.generator.submitted] == [0, 1, 2, 3]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert [choice["token_ids"] for choice in answer["choices"]] == [[103] * 4, [101] * 2]
    assert answer["usage"]["completion_tokens"] == 1 + 2 + 3 + 4


async def test_best_of_is_at_least_n_and_knows_no_stream() -> None:
    async with http_app(FakeGenerator()) as service:
        fewer = await service.post(COMPLETIONS, prompt="x", n=3, best_of=2)
        stream = await service.post(COMPLETIONS, prompt="x", n=2, best_of=3, stream=True)
    assert "at least n, which is 3" in error_of(fewer)["message"]
    assert "known at the end" in error_of(stream)["message"]
    assert error_of(fewer)["param"] == error_of(stream)["param"] == "best_of"


async def test_choices_of_one_prompt_are_queued_together() -> None:
    groups: list[int] = []

    class Together(FakeGenerator):
        def submit_choices(self, requests: Any) -> list[FakeStream]:
            groups.append(len(requests))
            return super().submit_choices(requests)

    async with http_app(Together()) as service:
        await service.answer(COMPLETIONS, prompt=["x", "y"], n=3)
    assert groups == [3, 3]
