from collections.abc import AsyncIterator

import pytest
from qllm.client.bench.errors import RequestFailed
from qllm.client.bench.load.grpc_target import GrpcTarget
from qllm.client.bench.load.target import Ask, Chunk, Ending, Turn
from qllm.client.bench.load.workload import BE, LS

from tests.unit.client.fake_service import AT_REST, MEMORY, FakeService


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
        Ending(2, 0, 0.0, 3),
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


async def test_salts_and_turns_of_sessions_are_told(target: GrpcTarget, service: FakeService) -> None:
    for ask in (Ask(BE, [5], 1, cache_salt="mine", turn=Turn("program 1", "search", is_last=True)), Ask(BE, [5], 1)):
        async for _ in target.stream(ask):
            pass
    told, silent = service.requests
    assert told.cache_salt == f"{silent.cache_salt} mine"
    session = told.session
    assert (session.session_id, session.expects_tool_call, session.last_turn) == ("program 1", "search", True)
    assert not silent.HasField("session")


async def test_all_requests_of_a_run_share_a_salt_that_no_other_run_has(service: FakeService) -> None:
    for _ in range(2):
        target = GrpcTarget(service.address, ignore_eos=True)
        for _ in range(2):
            async for _ in target.stream(Ask(BE, [5], 1)):
                pass
        await target.close()
    one, same, other, same_as_other = (request.cache_salt for request in service.requests)
    assert one == same
    assert other == same_as_other
    assert one != other
    assert one


async def test_the_books_of_memory_are_told_and_checked_where_that_is_asked_for(
    target: GrpcTarget, service: FakeService
) -> None:
    service.memory = AT_REST
    async for _ in target.stream(Ask(BE, [5], 1)):
        pass
    books = await target.books()
    assert (books.num_blocks, books.num_free_blocks, books.problems) == (64, 64, None)
    assert books.memory["num_offloads"] == AT_REST.num_offloads + 1
    assert books.is_at_rest
    service.problems, service.num_live, service.memory = ["a block is held twice"], 2, MEMORY
    checked = await target.books(check=True)
    assert checked.problems == ("a block is held twice",)
    assert (checked.is_idle, checked.num_held_blocks) == (False, 40)
