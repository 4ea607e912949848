"""Every bad input gets its clear status from the gRPC server, and nothing of it reaches the generator."""

import asyncio

import grpc
import pytest
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.grpc.admin import model_facts
from tests.support.service.api_service import collect, running, text_request
from tests.support.service.bad_input_cases import ALL_CASES, BAD_INPUT_CASES, GENERATE, OK, Case, send
from tests.support.service.fakes import FakeGenerator, served_model

FACTS = model_facts(served_model())


def test_the_table_is_large_and_its_names_are_unique() -> None:
    assert len(BAD_INPUT_CASES) >= 45
    assert len({case.name for case in ALL_CASES}) == len(ALL_CASES)


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
async def test_input_gets_its_status(case: Case) -> None:
    async with running(FakeGenerator()) as service:
        answer = await send(service.channel, case.method, case.build(FACTS))
        assert answer.status is case.status, answer.details
        assert all(word.lower() in answer.details.lower() for word in case.words), answer.details
        assert service.generator.live == {}
        assert len(service.generator.submitted) == (case.method == GENERATE and case.status is OK)
        assert (await collect(service, text_request("hello", max_tokens=2)))[-1].HasField("finish")


async def test_service_goes_on_serving_after_all_bad_inputs_at_once() -> None:
    async with running(FakeGenerator()) as service:
        calls = [send(service.channel, case.method, case.build(FACTS)) for case in BAD_INPUT_CASES]
        answers = await asyncio.gather(*calls)
        assert [answer.status for answer in answers] == [case.status for case in BAD_INPUT_CASES]
        assert service.generator.submitted == []
        assert (await collect(service, text_request("hello", max_tokens=2)))[-1].HasField("finish")


async def test_id_of_a_live_request_is_refused() -> None:
    async with running(FakeGenerator(hold_after=1)) as service:
        request = pb.GenerateRequest(request_id="twice", text="hello")
        first = service.inference.Generate(request)
        await first.read()
        answer = await send(service.channel, GENERATE, request.SerializeToString())
        assert answer.status is grpc.StatusCode.ALREADY_EXISTS
        assert "'twice'" in answer.details
        assert list(service.generator.live) == ["twice"]


@pytest.mark.parametrize(
    ("changes", "request_", "words"),
    [
        ({"chat_template": ""}, pb.GenerateRequest(chat=pb.ChatPrompt(messages=[{"role": "user"}])), "chat template"),
        ({"chat_template": "{% if"}, pb.GenerateRequest(chat=pb.ChatPrompt(messages=[{"role": "user"}])), "template"),
        ({"tokenizer_json": b""}, pb.GenerateRequest(text="hello"), "no tokenizer"),
        (
            {"tokenizer_json": b""},
            pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5]), stop=pb.StopConditions(stop_strings=["a"])),
            "no tokenizer",
        ),
    ],
    ids=["no template", "template that does not compile", "no tokenizer", "stop strings without tokenizer"],
)
async def test_what_the_model_cannot_do_is_refused(
    changes: dict[str, object], request_: pb.GenerateRequest, words: str
) -> None:
    async with running(FakeGenerator(model=served_model(**changes))) as service:
        answer = await send(service.channel, GENERATE, request_.SerializeToString())
        assert answer.status is grpc.StatusCode.INVALID_ARGUMENT
        assert words in answer.details


async def test_template_that_refuses_a_role_says_why() -> None:
    async with running(FakeGenerator()) as service:
        request = pb.GenerateRequest(chat=pb.ChatPrompt(messages=[{"role": "pirate", "content": "arr"}]))
        answer = await send(service.channel, GENERATE, request.SerializeToString())
        assert answer.status is grpc.StatusCode.INVALID_ARGUMENT
        assert answer.details.startswith("chat: ")
        assert "unknown role" in answer.details


async def test_model_without_tokenizer_serves_token_ids() -> None:
    async with running(FakeGenerator(model=served_model(tokenizer_json=b""))) as service:
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5, 6]), stop=pb.StopConditions(max_tokens=2))
        responses = await collect(service, request)
        assert [list(response.token_ids) for response in responses] == [[5], [6]]
        assert all(response.text == "" for response in responses)
