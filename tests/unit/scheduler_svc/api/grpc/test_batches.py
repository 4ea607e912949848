"""qllm.v1.BatchesService over a real gRPC server and jobs in memory."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from qllm.v1 import batches_pb2 as pb
from qllm.v1 import inference_pb2

from scheduler_svc.api.grpc.items import generate_items
from scheduler_svc.api.jobs.items import ItemAnswers
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.jobs.job import ItemKind, ItemOutcome, ItemStatus, NewItem, NewJob
from scheduler_svc.jobs.limits import MAX_ITEMS, ItemsSoFar
from tests.support.jobs.memory_jobs import NOW_S, MemoryJobs
from tests.support.jobs.new_jobs import each
from tests.support.service.api_service import Service, collect, running, text_request
from tests.support.service.fakes import FakeGenerator

FAILED = ItemOutcome(status=ItemStatus.FAILED, error_code="INVALID_ARGUMENT", error_message="text: got ''")


@pytest.fixture
def jobs() -> MemoryJobs:
    return MemoryJobs()


@pytest.fixture
async def service(jobs: MemoryJobs) -> AsyncIterator[Service]:
    async with running(FakeGenerator(), jobs) as service:
        yield service


def header(**fields: object) -> pb.CreateBatchRequest:
    return pb.CreateBatchRequest(header=pb.BatchHeader(**fields))  # type: ignore[arg-type]


def item(custom_id: str, request: inference_pb2.GenerateRequest | None = None) -> pb.CreateBatchRequest:
    given = request or text_request(custom_id, max_tokens=3)
    return pb.CreateBatchRequest(item=pb.NewBatchItem(custom_id=custom_id, request=given))


async def create(service: Service, *messages: pb.CreateBatchRequest) -> pb.Batch:
    return await service.batches.CreateBatch(messages)


async def refused(service: Service, messages: Iterable[pb.CreateBatchRequest]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.batches.CreateBatch(messages)
    return error.value


async def results(service: Service, batch_id: str, **options: object) -> list[pb.BatchResult]:
    request = pb.StreamResultsRequest(batch_id=batch_id, **options)  # type: ignore[arg-type]
    return [result async for result in service.batches.StreamResults(request, timeout=60)]


async def run_all(service: Service, jobs: MemoryJobs) -> None:
    texts = TextGenerator(service.generator)
    await jobs.run_all(ItemAnswers({ItemKind.GENERATE: generate_items(texts)}))
    texts.close()


async def test_a_job_is_what_was_sent(service: Service) -> None:
    batch = await create(service, header(metadata={"who": "me"}, completion_window_s=60), item("a"), item("b"))
    assert (batch.status, batch.num_items, batch.num_succeeded) == (pb.BATCH_STATUS_IN_PROGRESS, 2, 0)
    assert batch.metadata == {"who": "me"}
    assert (batch.created_at_s, batch.expires_at_s) == (NOW_S, NOW_S + 60)
    assert not batch.HasField("ended_at_s")
    assert await service.batches.GetBatch(pb.GetBatchRequest(batch_id=batch.batch_id)) == batch


async def test_a_window_that_is_not_given_is_a_day(service: Service) -> None:
    batch = await create(service, header(), item("a"))
    assert batch.expires_at_s - batch.created_at_s == 86400


async def test_each_item_gets_what_generate_gives(service: Service, jobs: MemoryJobs) -> None:
    requests = {name: text_request(name, max_tokens=5) for name in ("one", "two")}
    batch = await create(service, header(), *(item(name, request) for name, request in requests.items()))
    await run_all(service, jobs)
    found = await results(service, batch.batch_id)
    assert [(result.position, result.custom_id) for result in found] == [(0, "one"), (1, "two")]
    for result in found:
        alone = await collect(service, requests[result.custom_id])
        assert result.response.text == "".join(one.text for one in alone)
        assert [*result.response.token_ids] == [token_id for one in alone for token_id in one.token_ids]
        assert result.response.finish.reason == alone[-1].finish.reason
    ended = await service.batches.GetBatch(pb.GetBatchRequest(batch_id=batch.batch_id))
    assert (ended.status, ended.num_succeeded, ended.num_failed) == (pb.BATCH_STATUS_COMPLETED, 2, 0)
    assert ended.HasField("ended_at_s")


async def test_the_same_key_is_the_same_job(service: Service) -> None:
    first = await create(service, header(idempotency_key="k"), item("a"))
    assert await create(service, header(idempotency_key="k"), item("a")) == first
    assert (await create(service, header(idempotency_key="l"), item("a"))).batch_id != first.batch_id


BAD = {
    "no header": ([item("a")], "header", "a header as the first message"),
    "nothing": ([], "header", "got nothing"),
    "two headers": ([header(), item("a"), header()], "items[1]", "the header comes once"),
    "an empty part": ([header(), pb.CreateBatchRequest()], "items[0]", "an item"),
    "no items": ([header()], "items", "at least one item"),
    "no custom_id": ([header(), item("a"), item("")], "items[1].custom_id", "1 to 256 characters"),
    "NUL in custom_id": ([header(), item("a\0")], "items[0].custom_id", "none of them NUL"),
    "the same custom_id": ([header(), item("a"), item("b"), item("a")], "items[2].custom_id", "no earlier item"),
    "no prompt": (
        [header(), item("a", inference_pb2.GenerateRequest(request_id="x"))],
        "items[0].request.prompt",
        "one of text, chat, token_ids",
    ),
    "a bad value": (
        [
            header(),
            item("a"),
            item("b", inference_pb2.GenerateRequest(text="b", sampling=inference_pb2.SamplingParams(top_p=2))),
        ],
        "items[1].request.sampling.top_p",
        "a number in (0, 1]",
    ),
    "a long key": ([header(idempotency_key="k" * 129), item("a")], "header.idempotency_key", "at most 128"),
    "a long window": ([header(completion_window_s=1e9), item("a")], "header.completion_window_s", "2592000"),
    "no window": ([header(completion_window_s=0), item("a")], "header.completion_window_s", "[1,"),
    "much metadata": ([header(metadata={str(i): "" for i in range(17)}), item("a")], "header.metadata", "16 pairs"),
    "long metadata": ([header(metadata={"k": "v" * 513}), item("a")], "header.metadata['k']", "at most 512"),
}


@pytest.mark.parametrize(("messages", "field", "allowed"), BAD.values(), ids=BAD)
async def test_what_is_wrong_is_named_and_nothing_is_accepted(
    service: Service, messages: list[pb.CreateBatchRequest], field: str, allowed: str
) -> None:
    error = await refused(service, messages)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(f"{field}: got ")
    assert allowed in error.details()
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    (detail,) = status_pb2.Status.FromString(packed).details
    violation = error_details_pb2.BadRequest()
    assert detail.Unpack(violation)
    assert violation.field_violations[0].field == field
    assert not (await service.batches.ListBatches(pb.ListBatchesRequest())).batches


async def test_a_refusal_is_heard_by_who_is_still_sending(service: Service) -> None:
    error = await refused(service, [header(), item(""), *(item(str(number)) for number in range(2000))])
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("items[0].custom_id")


async def test_an_item_may_name_any_class_and_times(service: Service) -> None:
    request = inference_pb2.GenerateRequest(
        text="a",
        request_class=inference_pb2.REQUEST_CLASS_LATENCY_SENSITIVE,
        targets=inference_pb2.LatencyTargets(ttft_ms=1),
    )
    assert (await create(service, header(), item("a", request))).num_items == 1


async def test_values_are_taken_unseen_while_there_is_no_model(jobs: MemoryJobs) -> None:
    async with running(FakeGenerator(model=None), jobs) as service:
        assert (await create(service, header(), item("a"))).num_items == 1


def test_a_job_has_a_limit_of_items_and_of_bytes() -> None:
    so_far = ItemsSoFar()
    for number in range(MAX_ITEMS):
        so_far.take("custom_id", str(number), 1)
    with pytest.raises(InvalidRequest, match="items: got 50001 items or more, allowed is at most 50000 in one job"):
        so_far.take("custom_id", "one more", 1)
    so_far = ItemsSoFar()
    for number in range(50):
        so_far.take("custom_id", str(number), 4 << 20)
    with pytest.raises(InvalidRequest, match="bytes in one job"):
        so_far.take("custom_id", "one more", 1)


async def test_a_key_that_was_accepted_gives_its_job_whatever_is_sent_again(service: Service) -> None:
    first = await create(service, header(idempotency_key="k"), item("a"))
    again = await create(service, header(idempotency_key="k"), *(item("") for _ in range(2000)))
    assert again == first


async def test_jobs_are_listed_newest_first_page_by_page(service: Service) -> None:
    made = [(await create(service, header(), item("a"))).batch_id for _ in range(5)]
    pages: list[list[str]] = []
    token = ""
    while not pages or token:
        request = pb.ListBatchesRequest(page_size=2, page_token=token)
        response = await service.batches.ListBatches(request)
        pages.append([batch.batch_id for batch in response.batches])
        token = response.next_page_token
    assert pages == [made[:2:-1], made[2:0:-1], made[:1]]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.ListBatchesRequest(page_size=0), "page_size: got 0, allowed is 1 to 100"),
        (pb.ListBatchesRequest(page_size=101), "page_size: got 101"),
        (pb.ListBatchesRequest(page_token="?"), "page_token: got '?'"),
    ],
)
async def test_a_bad_page_is_refused(service: Service, request_: pb.ListBatchesRequest, message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.batches.ListBatches(request_)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details().startswith(message)


async def test_a_cancelled_job_keeps_its_results_and_says_why_there_are_no_others(
    service: Service, jobs: MemoryJobs
) -> None:
    batch = await create(service, header(), item("a"), item("b"), item("c"))
    await run_one(service, jobs, batch.batch_id, 1)
    cancelled = await service.batches.CancelBatch(pb.CancelBatchRequest(batch_id=batch.batch_id))
    assert cancelled.status == pb.BATCH_STATUS_CANCELLED
    first, second, _ = await results(service, batch.batch_id)
    assert (first.error.code, second.response.text) == ("CANCELLED", "bbb")
    assert "the job was cancelled" in first.error.message
    again = await service.batches.CancelBatch(pb.CancelBatchRequest(batch_id=batch.batch_id))
    assert again == cancelled


async def run_one(service: Service, jobs: MemoryJobs, batch_id: str, position: int) -> None:
    texts = TextGenerator(service.generator)
    answers = ItemAnswers({ItemKind.GENERATE: generate_items(texts)})
    jobs.finish(batch_id, position, await answers.run(jobs.claim(batch_id, position), lambda _: None))
    texts.close()


async def test_what_expired_says_so(service: Service, jobs: MemoryJobs) -> None:
    batch = await create(service, header(), item("a"))
    jobs.expire(batch.batch_id)
    (result,) = await results(service, batch.batch_id)
    assert result.error.code == "DEADLINE_EXCEEDED"
    assert "window" in result.error.message


async def test_a_failed_item_has_its_own_error(service: Service, jobs: MemoryJobs) -> None:
    batch = await create(service, header(), item("a"))
    jobs.finish(batch.batch_id, 0, FAILED)
    (result,) = await results(service, batch.batch_id)
    assert (result.error.code, result.error.message) == ("INVALID_ARGUMENT", "text: got ''")


async def test_results_of_jobs_that_came_over_http_are_json(service: Service, jobs: MemoryJobs) -> None:
    job = await jobs.create_job(NewJob(tenant="", kind=ItemKind.COMPLETION), each([NewItem("a", b"{}")]))
    jobs.finish(job.job_id, 0, ItemOutcome(status=ItemStatus.SUCCEEDED, body='{"text":"é"}'.encode()))
    (result,) = await results(service, job.job_id)
    assert result.json == '{"text":"é"}'


async def test_following_brings_results_as_they_come(service: Service, jobs: MemoryJobs) -> None:
    batch = await create(service, header(), item("a"), item("b"))
    call = service.batches.StreamResults(pb.StreamResultsRequest(batch_id=batch.batch_id, follow=True))
    waiting = asyncio.ensure_future(call.read())
    await run_one(service, jobs, batch.batch_id, 0)
    assert (await waiting).position == 0
    await run_one(service, jobs, batch.batch_id, 1)
    assert (await call.read()).position == 1
    assert await call.read() is grpc.aio.EOF


async def test_a_stream_begins_where_it_is_told(service: Service, jobs: MemoryJobs) -> None:
    batch = await create(service, header(), *(item(str(number)) for number in range(5)))
    await run_all(service, jobs)
    for follow in (False, True):
        found = await results(service, batch.batch_id, from_position=3, follow=follow)
        assert [result.position for result in found] == [3, 4]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await results(service, batch.batch_id, from_position=-1)
    assert error.value.details().startswith("from_position: got -1")


CALLS = {
    "GetBatch": pb.GetBatchRequest(batch_id="nobody's"),
    "CancelBatch": pb.CancelBatchRequest(batch_id="nobody's"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_job_that_is_not_there_is_not_found(service: Service, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await getattr(service.batches, name)(CALLS[name])
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert error.value.details() == 'batch_id: got "nobody\'s", allowed is the id of one of your jobs'


async def test_without_a_store_every_call_says_what_to_start_the_service_with() -> None:
    async with running(FakeGenerator()) as service:
        calls = [
            service.batches.CreateBatch([header(), item("a")]),
            service.batches.ListBatches(pb.ListBatchesRequest()),
            *(getattr(service.batches, name)(request) for name, request in CALLS.items()),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError, match="--state-dir") as error:
                await call
            assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpc.aio.AioRpcError, match="--state-dir"):
            await results(service, "a")


async def test_a_store_that_is_gone_is_unavailable_and_says_when_to_come_back(
    service: Service, jobs: MemoryJobs
) -> None:
    jobs.is_down = True
    error = await refused(service, [header(), item("a")])
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "grpc-retry-pushback-ms" in dict(error.trailing_metadata())
