"""Jobs through the Python client, over the real API and jobs in memory."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterator

import grpc
import pytest
from qllm import (
    AsyncClient,
    Batch,
    BatchItem,
    BatchStatus,
    Client,
    FinishReason,
    GenerateOptions,
    InvalidRequest,
    ItemError,
    ServerError,
    Unavailable,
)
from qllm.v1 import batches_pb2 as pb
from qllm.v1 import batches_pb2_grpc

from scheduler_svc.api.grpc.items import generate_items
from scheduler_svc.api.jobs.items import ItemAnswers
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.jobs.job import ItemKind, ItemOutcome, ItemStatus, Job, NewItem, NewJob
from tests.support.jobs.memory_jobs import NOW_S, MemoryJobs
from tests.support.jobs.new_jobs import each
from tests.support.service.api_service import Service, running
from tests.support.service.fakes import FakeGenerator

ITEMS = [
    BatchItem("text", "hello", {"max_tokens": 3, "temperature": 0}),
    BatchItem("ids", (5, 6), {"max_tokens": 3}),
    BatchItem("chat", [{"role": "user", "content": "hi"}], {"max_tokens": 2}),
]


@pytest.fixture
def jobs() -> MemoryJobs:
    return MemoryJobs()


@pytest.fixture
async def service(jobs: MemoryJobs) -> AsyncIterator[Service]:
    async with running(FakeGenerator(), jobs) as service:
        yield service


@pytest.fixture
async def client(service: Service) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.server.address) as client:
        yield client


async def run_all(service: Service, jobs: MemoryJobs) -> None:
    texts = TextGenerator(service.generator)
    await jobs.run_all(ItemAnswers({ItemKind.GENERATE: generate_items(texts)}))
    texts.close()


async def test_a_job_is_created_run_and_read(service: Service, client: AsyncClient, jobs: MemoryJobs) -> None:
    batch = await client.create_batch(ITEMS, metadata={"who": "me"}, completion_window_s=3600)
    assert (batch.status, batch.num_items, batch.metadata) == (BatchStatus.IN_PROGRESS, 3, {"who": "me"})
    assert (batch.created_at_s, batch.expires_at_s, batch.ended_at_s) == (NOW_S, NOW_S + 3600, None)
    await run_all(service, jobs)
    ended = await client.get_batch(batch.batch_id)
    assert (ended.status, ended.num_succeeded, ended.num_ended) == (BatchStatus.COMPLETED, 3, 3)
    assert ended.status.is_terminal
    results = [result async for result in client.batch_results(batch.batch_id)]
    assert [(result.position, result.custom_id) for result in results] == [(0, "text"), (1, "ids"), (2, "chat")]
    first, second, _ = (result.answer for result in results)
    assert first is not None
    assert (first.text, first.finish_reason, first.usage.completion_tokens) == ("hellohe", FinishReason.LENGTH, 3)
    assert second is not None
    assert second.token_ids == (5, 6, 5)


async def test_items_without_an_answer_say_why(client: AsyncClient, jobs: MemoryJobs) -> None:
    batch = await client.create_batch(ITEMS)
    cancelled = await client.cancel_batch(batch.batch_id)
    assert cancelled.status is BatchStatus.CANCELLED
    results = [result async for result in client.batch_results(batch.batch_id, from_position=1)]
    assert [result.error.code for result in results if result.error] == ["CANCELLED"] * 2


async def test_jobs_of_http_have_their_json(client: AsyncClient, jobs: MemoryJobs) -> None:
    job = await jobs.create_job(NewJob(tenant="", kind=ItemKind.COMPLETION), each([NewItem("a", b"{}")]))
    jobs.finish(job.job_id, 0, ItemOutcome(status=ItemStatus.SUCCEEDED, body=b'{"text":"x"}'))
    (result,) = [result async for result in client.batch_results(job.job_id)]
    assert (result.json, result.answer, result.error) == ('{"text":"x"}', None, None)


async def test_jobs_are_listed_page_by_page(client: AsyncClient) -> None:
    made = [(await client.create_batch(ITEMS)).batch_id for _ in range(3)]
    first = await client.list_batches(page_size=2)
    rest = await client.list_batches(page_token=first.next_page_token)
    assert [batch.batch_id for batch in (*first.batches, *rest.batches)] == made[::-1]
    assert rest.next_page_token == ""


async def test_every_call_makes_a_job_unless_it_has_the_key_of_one(client: AsyncClient) -> None:
    first, second = await client.create_batch(ITEMS), await client.create_batch(ITEMS)
    assert first.batch_id != second.batch_id
    named = [await client.create_batch(ITEMS, idempotency_key="k") for _ in range(2)]
    assert named[0] == named[1]


class LosesItsAnswer(MemoryJobs):
    """The first job is made, but nobody hears of it."""

    num_created = 0

    async def create_job(self, job: NewJob, items: AsyncIterable[NewItem]) -> Job:
        made = await super().create_job(job, items)
        self.num_created += 1
        if self.num_created == 1:
            raise self.unavailable()  # after the commit
        return made


def internal(details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


class BreaksWhileSending:
    """The first call ends as gRPC ends one whose connection breaks while it sends."""

    def __init__(self, stub: batches_pb2_grpc.BatchesServiceStub, error: BaseException) -> None:
        self.error = error
        self._create = stub.CreateBatch
        self.num_calls = 0

    async def CreateBatch(self, messages: Iterator[pb.CreateBatchRequest]) -> pb.Batch:
        self.num_calls += 1
        if self.num_calls == 1:
            raise self.error
        return await self._create(messages)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), internal("Internal error from Core")])
async def test_a_connection_that_breaks_while_a_job_is_sent_is_an_error_that_is_tried_again(
    service: Service, error: BaseException
) -> None:
    async with AsyncClient(service.server.address) as client:
        client._batches._stub = stub = BreaksWhileSending(service.batches, error)
        assert (await client.create_batch(ITEMS)).num_items == 3
        assert stub.num_calls == 2
        stub.num_calls = 0
        with pytest.raises(Unavailable, match="broke while the job was sent"):
            await client.create_batch(ITEMS, idempotency_key="")


async def test_who_cancels_the_sending_of_a_job_is_heard() -> None:
    class Never(MemoryJobs):
        async def create_job(self, job: NewJob, items: AsyncIterable[NewItem]) -> Job:
            reached.set()
            return await asyncio.Event().wait() and await super().create_job(job, items)

    reached = asyncio.Event()
    async with running(FakeGenerator(), Never()) as service, AsyncClient(service.server.address) as client:
        sending = asyncio.create_task(client.create_batch(ITEMS))
        await reached.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_a_job_whose_acceptance_was_not_heard_of_is_made_once() -> None:
    jobs = LosesItsAnswer()
    jobs.retry_after_s = 0.001
    async with running(FakeGenerator(), jobs) as service, AsyncClient(service.server.address) as client:
        batch = await client.create_batch(ITEMS)
        assert jobs.num_created == 1
        assert [one.batch_id for one in (await client.list_batches()).batches] == [batch.batch_id]


async def test_a_service_that_stays_away_is_said_to_be_unavailable(
    client: AsyncClient, jobs: MemoryJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.retry_after_s = 0.001
    monkeypatch.setattr("qllm.client.batch_calls.PATIENCE_S", 0.01)
    batch = await client.create_batch(ITEMS)
    jobs.is_down = True
    with pytest.raises(Unavailable):
        await client.create_batch(ITEMS)
    with pytest.raises(Unavailable):
        await anext(client.watch_batch(batch.batch_id))
    with pytest.raises(Unavailable):
        await anext(client.batch_results(batch.batch_id, follow=True))


async def test_following_goes_on_after_the_service_was_away(
    service: Service, client: AsyncClient, jobs: MemoryJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.retry_after_s = 0.001
    monkeypatch.setattr("scheduler_svc.api.jobs.results.POLL_S", 0.001)
    batch = await client.create_batch(ITEMS)
    jobs.finish(batch.batch_id, 0, ItemOutcome(status=ItemStatus.SUCCEEDED))
    following = client.batch_results(batch.batch_id, follow=True)
    assert (await anext(following)).position == 0
    jobs.is_down = True
    rest = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0.05)
    jobs.is_down = False
    await run_all(service, jobs)
    assert [(await rest).position, *[result.position async for result in following]] == [1, 2]


async def test_watching_ends_with_the_job(service: Service, client: AsyncClient, jobs: MemoryJobs) -> None:
    batch = await client.create_batch(ITEMS)
    seen: list[Batch] = []
    async for now in client.watch_batch(batch.batch_id, poll_s=0.001):
        seen.append(now)
        if len(seen) == 2:
            await run_all(service, jobs)
    assert [now.status for now in seen] == [BatchStatus.IN_PROGRESS] * 2 + [BatchStatus.COMPLETED]


async def test_what_is_wrong_names_the_item(client: AsyncClient) -> None:
    wrong_range = BatchItem("b", "x", {"top_p": 2})
    wrong_type = BatchItem("b", "x", GenerateOptions(max_tokens="many"))  # type: ignore[typeddict-item]
    with pytest.raises(InvalidRequest, match=r"items\[1\]\.request\.sampling\.top_p: got 2\.0"):
        await client.create_batch([ITEMS[0], wrong_range])
    with pytest.raises(InvalidRequest, match=r"items\[1\]: max_tokens: got 'many', allowed is an integer"):
        await client.create_batch([ITEMS[0], wrong_type])
    with pytest.raises(InvalidRequest, match=r"items\[1\]\.custom_id"):
        await client.create_batch([ITEMS[0], ITEMS[0]])


async def test_a_service_without_jobs_says_so(client: AsyncClient) -> None:
    async with running(FakeGenerator()) as service, AsyncClient(service.server.address) as other:
        with pytest.raises(ServerError, match="--state-dir") as error:
            await other.create_batch(ITEMS)
        assert error.value.status is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(ServerError) as error:
        await client.get_batch("nobody's")
    assert error.value.status is grpc.StatusCode.NOT_FOUND


async def test_the_blocking_client_has_the_same_calls(service: Service, jobs: MemoryJobs) -> None:
    def use(address: str) -> list[ItemError | None]:
        with Client(address) as client:
            batch = client.create_batch(ITEMS, idempotency_key="k")
            assert client.get_batch(batch.batch_id) == batch
            assert client.list_batches().batches == (batch,)
            assert client.cancel_batch(batch.batch_id).status is BatchStatus.CANCELLED
            assert [now.status for now in client.watch_batch(batch.batch_id)] == [BatchStatus.CANCELLED]
            return [result.error for result in client.batch_results(batch.batch_id)]

    errors = await asyncio.to_thread(use, service.server.address)
    assert [error.code for error in errors if error] == ["CANCELLED"] * 3
