from collections.abc import AsyncIterator

import pytest

from client.bench.errors import RequestFailed
from client.bench.load.grpc_target import GrpcTarget
from client.bench.load.target import Ask, Chunk, Ending
from client.bench.load.workload import BE, LS
from tests.unit.client.fake_service import FakeService


@pytest.fixture
async def target(service: FakeService) -> AsyncIterator[GrpcTarget]:
    target = GrpcTarget(service.address, ignore_eos=True, chat={LS})
    yield target
    await target.close()


async def test_chunks_tell_their_tokens_and_their_text(target: GrpcTarget) -> None:
    items = [item async for item in target.stream(Ask(BE, [7], 2))]
    assert items == [
        Chunk(1, token_ids=(7,), text="0 "),
        Chunk(1, token_ids=(8,), text="1 "),
        Ending(2, 0, 0.0),
    ]


async def test_texts_of_a_chatting_class_are_messages_and_others_are_not(
    target: GrpcTarget, service: FakeService
) -> None:
    for ask in (Ask(LS, "hello", 1), Ask(BE, "hello", 1), Ask(LS, [5], 1)):
        async for _ in target.stream(ask):
            pass
    chat, text, ids = service.requests
    assert [(message.role, message.content) for message in chat.chat.messages] == [("user", "hello")]
    assert (text.text, list(ids.token_ids.ids)) == ("hello", [5])


async def test_a_refusal_is_told_by_its_status(target: GrpcTarget) -> None:
    with pytest.raises(RequestFailed) as refused:
        async for _ in target.stream(Ask(BE, "fail INTERNAL", 1)):
            pass
    assert refused.value.kind == "INTERNAL"
