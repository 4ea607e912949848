"""What a request says of the reuse of its cache reaches the generator the same way from both APIs."""

import pytest
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.draft import SessionDraft
from scheduler_svc.api.reuse import MAX_CACHE_SALT_BYTES, valid_cache_salt, valid_session
from scheduler_svc.core.state.sequence import SessionTurn
from scheduler_svc.errors import InvalidRequest
from tests.support.service.api_service import collect, running
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import CHAT, COMPLETIONS, USER_SAYS_HI, error_of, http_app

MESSAGES: dict[str, dict[str, object]] = {COMPLETIONS: {"prompt": "hello"}, CHAT: {"messages": USER_SAYS_HI}}


@pytest.mark.parametrize("salt", ["", "tenant-5", "größe", "x" * MAX_CACHE_SALT_BYTES])
async def test_a_salt_reaches_the_generator_as_its_bytes(salt: str) -> None:
    generator = FakeGenerator()
    async with running(generator) as service:
        await collect(service, pb.GenerateRequest(text="hello", cache_salt=salt))
    async with http_app(generator) as service:
        for path, body in MESSAGES.items():
            await service.answer(path, **body, cache_salt=salt, max_tokens=2)
    assert [request.cache_salt for request in generator.submitted] == [salt.encode()] * 3


@pytest.mark.parametrize("path", MESSAGES)
async def test_without_a_salt_there_is_none(path: str) -> None:
    async with http_app(FakeGenerator()) as service:
        await service.answer(path, **MESSAGES[path], max_tokens=2)
        await service.answer(path, **MESSAGES[path], max_tokens=2, cache_salt=None)
        assert [request.cache_salt for request in service.generator.submitted] == [b"", b""]


async def test_every_choice_has_its_answers_salt() -> None:
    async with http_app(FakeGenerator()) as service:
        await service.answer(COMPLETIONS, prompt=["a", "b"], n=2, max_tokens=2, cache_salt="tenant")
        assert [request.cache_salt for request in service.generator.submitted] == [b"tenant"] * 4


def test_a_refusal_does_not_repeat_the_salt() -> None:
    with pytest.raises(InvalidRequest) as refused:
        valid_cache_salt("é" * 65)
    assert str(refused.value) == "cache_salt: got 130 bytes, allowed is at most 128 bytes of UTF-8"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"session_id": "s"}, SessionTurn("s")),
        ({"session_id": "s", "expects_tool_call": "search"}, SessionTurn("s", "search")),
        ({"session_id": "s", "last_turn": True}, SessionTurn("s", last_turn=True)),
    ],
)
async def test_a_turn_reaches_the_generator(given: dict[str, object], expected: SessionTurn) -> None:
    generator = FakeGenerator()
    async with running(generator) as service:
        turn = pb.SessionTurn(**given)  # type: ignore[arg-type]
        await collect(service, pb.GenerateRequest(text="hello", session=turn))
    async with http_app(generator) as service:
        for path, body in MESSAGES.items():
            await service.answer(path, **body, **given, max_tokens=2)
    assert [request.session for request in generator.submitted] == [expected] * 3


@pytest.mark.parametrize("nothing", [{}, {"session_id": None, "expects_tool_call": "", "last_turn": False}])
async def test_a_request_that_names_no_program_is_no_turn(nothing: dict[str, object]) -> None:
    async with http_app(FakeGenerator()) as service:
        for path, body in MESSAGES.items():
            await service.answer(path, **body, **nothing, max_tokens=2)
        assert [request.session for request in service.generator.submitted] == [None, None]


def test_a_last_turn_expects_no_tool() -> None:
    with pytest.raises(InvalidRequest, match=r"^session.last_turn: got true, allowed is false where another turn"):
        valid_session(SessionDraft(session_id="s", expects_tool_call="search", last_turn=True))


@pytest.mark.parametrize("several", [{"n": 2}, {"prompt": ["a", "b"]}])
async def test_a_turn_has_one_answer(several: dict[str, object]) -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(COMPLETIONS, **{"prompt": "hello", **several}, session_id="s")
        assert (response.status_code, error_of(response)["param"]) == (400, "session_id")
        assert "got 's', allowed is nothing where there is more than one choice" in error_of(response)["message"]
        assert service.generator.submitted == []
