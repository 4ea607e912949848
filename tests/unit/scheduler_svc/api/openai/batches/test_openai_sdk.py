"""OpenAI's own client, unmodified, over the real HTTP server."""

import json
from collections.abc import AsyncIterator

import openai
import pytest

from scheduler_svc.api.jobs.items import ItemAnswers
from scheduler_svc.api.openai.batches.items import json_items
from scheduler_svc.api.text_generation import TextGenerator
from tests.support.jobs.memory_jobs import MemoryJobs
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import CHAT, COMPLETIONS, USER_SAYS_HI, HttpService, running_http


@pytest.fixture
def jobs() -> MemoryJobs:
    return MemoryJobs()


@pytest.fixture
async def service(jobs: MemoryJobs) -> AsyncIterator[HttpService]:
    async with running_http(FakeGenerator(), jobs=jobs) as service:
        yield service


@pytest.fixture
async def sdk(service: HttpService) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{str(service.http.base_url).rstrip('/')}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as sdk:
        yield sdk


def lines_of(url: str, *bodies: dict[str, object]) -> bytes:
    lines = [
        {"custom_id": f"item {number}", "method": "POST", "url": url, "body": body}
        for number, body in enumerate(bodies)
    ]
    return "\n".join(map(json.dumps, lines)).encode()


async def test_a_job_from_its_file_to_its_answers(
    service: HttpService, sdk: openai.AsyncOpenAI, jobs: MemoryJobs
) -> None:
    content = lines_of(CHAT, {"messages": USER_SAYS_HI, "max_tokens": 4}, {"messages": "nonsense"})
    file = await sdk.files.create(file=("in.jsonl", content), purpose="batch")
    assert (await sdk.files.retrieve(file.id)).bytes == len(content)
    batch = await sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"who": "me"}
    )
    assert (batch.status, batch.metadata) == ("in_progress", {"who": "me"})
    texts = TextGenerator(service.generator)
    await jobs.run_all(ItemAnswers(json_items(texts)))
    texts.close()
    batch = await sdk.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    assert batch.output_file_id is not None
    answers = [json.loads(line) for line in (await sdk.files.content(batch.output_file_id)).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["item 0"]
    assert answers[0]["response"]["body"]["object"] == "chat.completion"
    assert batch.error_file_id is not None
    (refused,) = [json.loads(line) for line in (await sdk.files.content(batch.error_file_id)).text.splitlines()]
    assert refused["response"]["status_code"] == 400
    assert "messages" in refused["response"]["body"]["error"]["message"]
    assert (await sdk.files.delete(file.id)).deleted


async def test_lists_are_paged_through(sdk: openai.AsyncOpenAI) -> None:
    file = await sdk.files.create(file=("in.jsonl", lines_of(COMPLETIONS, {"prompt": "a"})), purpose="batch")
    await sdk.files.create(file=("more.jsonl", b""), purpose="batch")
    made = [
        (await sdk.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")).id
        for _ in range(5)
    ]
    assert [batch.id async for batch in sdk.batches.list(limit=2)] == made[::-1]
    assert [file.filename async for file in sdk.files.list(limit=1, purpose="batch")] == ["more.jsonl", "in.jsonl"]


async def test_a_job_is_cancelled(sdk: openai.AsyncOpenAI) -> None:
    file = await sdk.files.create(file=("in.jsonl", lines_of(COMPLETIONS, {"prompt": "a"})), purpose="batch")
    batch = await sdk.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    cancelled = await sdk.batches.cancel(batch.id)
    assert (cancelled.status, cancelled.output_file_id) == ("cancelled", None)
    assert cancelled.cancelled_at is not None


async def test_refusals_are_the_clients_own_errors(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody"):
        await sdk.batches.retrieve("nobody")
    with pytest.raises(openai.BadRequestError, match="input_file_id"):
        await sdk.batches.create(input_file_id="file-x", endpoint="/v1/completions", completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="purpose: got 'vision', allowed is 'batch'"):
        await sdk.files.create(file=("in.jsonl", b"{}"), purpose="vision")
