"""OpenAI's Batch API over jobs in memory."""

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from qllm.v1 import inference_pb2

from scheduler_svc.api.jobs.items import ItemAnswers
from scheduler_svc.api.openai.batches.input_lines import MAX_ERRORS, MAX_LINE_BYTES, InputFailed, read_input
from scheduler_svc.api.openai.batches.items import json_items
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.caller import set_tenant
from scheduler_svc.jobs.job import ItemKind, ItemOutcome, ItemStatus, NewItem, NewJob
from tests.support.jobs.memory_jobs import NOW_S, MemoryJobs
from tests.support.jobs.new_jobs import each
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import CHAT, COMPLETIONS, RESPONSES, HttpService, error_of, http_app, said_in


@pytest.fixture
def jobs() -> MemoryJobs:
    return MemoryJobs()


@pytest.fixture
async def service(jobs: MemoryJobs) -> AsyncIterator[HttpService]:
    async with http_app(FakeGenerator(), jobs=jobs) as service:
        yield service


def line(custom_id: str, url: str = COMPLETIONS, **body: object) -> dict[str, object]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body or {"prompt": custom_id}}


async def upload(service: HttpService, content: bytes) -> str:
    files = {"file": ("lines.jsonl", content)}
    file_id: str = (await service.http.post("/v1/files", data={"purpose": "batch"}, files=files)).json()["id"]
    return file_id


async def create(service: HttpService, *lines: object, **options: object) -> httpx2.Response:
    content = b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines)
    body = {"endpoint": COMPLETIONS, "completion_window": "24h", **options}
    body.setdefault("input_file_id", await upload(service, content))
    return await service.post("/v1/batches", **body)


async def created(service: HttpService, *lines: object, **options: object) -> dict[str, Any]:
    response = await create(service, *lines, **options)
    assert response.status_code == 200, response.text
    batch: dict[str, Any] = response.json()
    return batch


async def batch_now(service: HttpService, batch: dict[str, Any]) -> dict[str, Any]:
    now: dict[str, Any] = (await service.http.get(f"/v1/batches/{batch['id']}")).json()
    return now


async def file_lines(service: HttpService, file_id: str) -> list[dict[str, Any]]:
    response = await service.http.get(f"/v1/files/{file_id}/content")
    assert response.status_code == 200, response.text
    return [json.loads(one) for one in response.text.splitlines()]


async def run_all(service: HttpService, jobs: MemoryJobs) -> None:
    texts = TextGenerator(service.generator)
    await jobs.run_all(ItemAnswers(json_items(texts)))
    texts.close()


async def test_a_job_has_openais_form(service: HttpService) -> None:
    batch = await created(service, line("a"), line("b"), metadata={"who": "me"}, completion_window="2h")
    assert batch.pop("id").startswith("batch_")
    assert batch.pop("input_file_id").startswith("file-")
    assert batch == {
        "object": "batch",
        "endpoint": COMPLETIONS,
        "errors": None,
        "completion_window": "2h",
        "status": "in_progress",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": int(NOW_S),
        "in_progress_at": int(NOW_S) + 1,
        "expires_at": int(NOW_S) + 7200,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 2, "completed": 0, "failed": 0},
        "metadata": {"who": "me"},
    }


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (COMPLETIONS, {"prompt": "hello", "max_tokens": 5}),
        (CHAT, {"messages": [{"role": "user", "content": "hé"}], "max_tokens": 5}),
        (RESPONSES, {"input": "hé", "max_output_tokens": 5}),
    ],
)
async def test_the_output_file_has_what_each_request_gets_alone(
    service: HttpService, jobs: MemoryJobs, url: str, body: dict[str, object]
) -> None:
    batch = await created(service, line("a", url, **body), line("b", url, **body), endpoint=url)
    await run_all(service, jobs)
    now = await batch_now(service, batch)
    assert (now["status"], now["completed_at"], now["error_file_id"]) == ("completed", int(NOW_S) + 3, None)
    assert now["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    first, second = await file_lines(service, now["output_file_id"])
    assert list(first) == ["id", "custom_id", "response", "error"]
    assert (first["custom_id"], second["custom_id"], first["error"]) == ("a", "b", None)
    assert first["response"]["status_code"] == 200
    alone = await service.answer(url, **body)
    assert said_in(first["response"]["body"]) == said_in(alone)


async def test_the_files_of_a_job_are_described_but_not_deleted(service: HttpService, jobs: MemoryJobs) -> None:
    batch = await created(service, line("a"))
    await run_all(service, jobs)
    file_id = (await batch_now(service, batch))["output_file_id"]
    described = (await service.http.get(f"/v1/files/{file_id}")).json()
    content = (await service.http.get(f"/v1/files/{file_id}/content")).content
    assert (described["bytes"], described["purpose"]) == (len(content), "batch_output")
    assert (await service.http.delete(f"/v1/files/{file_id}")).status_code == 400
    assert (await service.http.get("/v1/files/file-output-batch_99")).status_code == 404


async def test_the_error_file_has_one_line_for_each_request_without_an_answer(
    service: HttpService, jobs: MemoryJobs
) -> None:
    batch = await created(service, *(line(name) for name in ("answered", "refused", "lost")))
    answer = ItemOutcome(status=ItemStatus.SUCCEEDED, body=b'{"id":"cmpl-1"}')
    refusal = ItemOutcome(status=ItemStatus.FAILED, error_code="INVALID_ARGUMENT", error_message="prompt: got ''")
    jobs.finish(batch["id"], 0, answer)
    jobs.finish(batch["id"], 1, refusal)
    jobs.finish(batch["id"], 2, ItemOutcome(status=ItemStatus.FAILED, error_code="NOT_FOUND", error_message="model"))
    now = await batch_now(service, batch)
    assert now["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    (only,) = await file_lines(service, now["output_file_id"])
    assert only["response"]["body"] == {"id": "cmpl-1"}
    refused, lost = await file_lines(service, now["error_file_id"])
    assert (refused["custom_id"], refused["error"], refused["response"]["status_code"]) == ("refused", None, 400)
    assert refused["response"]["body"]["error"] == {
        "message": "prompt: got ''",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    assert lost["response"]["status_code"] == 404


async def test_a_cancelled_job_has_what_was_there_and_says_what_was_not_run(
    service: HttpService, jobs: MemoryJobs
) -> None:
    batch = await created(service, line("a"), line("b"))
    jobs.finish(batch["id"], 0, ItemOutcome(status=ItemStatus.SUCCEEDED, body=b"{}"))
    cancelled = (await service.http.post(f"/v1/batches/{batch['id']}/cancel")).json()
    assert (cancelled["status"], cancelled["cancelled_at"]) == ("cancelled", int(NOW_S) + 3)
    (answered,) = await file_lines(service, cancelled["output_file_id"])
    (missing,) = await file_lines(service, cancelled["error_file_id"])
    assert (answered["custom_id"], missing["custom_id"], missing["response"]) == ("a", "b", None)
    assert missing["error"]["code"] == "batch_cancelled"
    assert (await service.http.post(f"/v1/batches/{batch['id']}/cancel")).json() == cancelled


async def test_an_expired_job_says_which_requests_it_is_about(service: HttpService, jobs: MemoryJobs) -> None:
    batch = await created(service, line("a"))
    jobs.expire(batch["id"])
    now = await batch_now(service, batch)
    assert (now["status"], now["expired_at"], now["output_file_id"]) == ("expired", int(NOW_S) + 3, None)
    (missing,) = await file_lines(service, now["error_file_id"])
    assert missing["error"]["code"] == "batch_expired"


async def test_a_job_of_grpcs_is_shown_and_its_answers_are_its_messages(service: HttpService, jobs: MemoryJobs) -> None:
    job = await jobs.create_job(NewJob(tenant="", kind=ItemKind.GENERATE), each([NewItem("a", b"")]))
    answer = inference_pb2.GenerateResponse(text="hé", token_ids=[1, 2])
    jobs.finish(job.job_id, 0, ItemOutcome(status=ItemStatus.SUCCEEDED, body=answer.SerializeToString()))
    now = await batch_now(service, {"id": job.job_id})
    assert now["endpoint"] == "/qllm.v1.Inference/Generate"
    (only,) = await file_lines(service, now["output_file_id"])
    assert only["response"]["body"] == {"text": "hé", "token_ids": [1, 2]}


async def test_a_custom_id_is_a_text_whatever_is_in_it(service: HttpService, jobs: MemoryJobs) -> None:
    custom_id = '"},"response":{"body":\u2028\\'
    batch = await created(service, line(custom_id, prompt="a"))
    await run_all(service, jobs)
    content = await service.http.get(f"/v1/files/file-output-{batch['id']}/content")
    assert json.loads(content.content)["custom_id"] == custom_id


BAD_LINES = {
    "no JSON": (b"{", "invalid_json_line"),
    "no object": (b"[]", "invalid_json_line"),
    "deep": (b"[" * 100_000, "invalid_json_line"),
    "no UTF-8": (b'{"custom_id": "\xff"}', "invalid_json_line"),
    "another method": (json.dumps({**line("a"), "method": "GET"}).encode(), "invalid_method"),
    "another endpoint": (json.dumps(line("a", CHAT)).encode(), "invalid_url"),
    "no custom_id": (json.dumps({**line("a"), "custom_id": None}).encode(), "invalid_custom_id"),
    "an empty custom_id": (json.dumps(line("", prompt="x")).encode(), "invalid_custom_id"),
    "half a character": (json.dumps(line("\ud800")).encode(), "invalid_custom_id"),
    "the same custom_id": (json.dumps(line("first")).encode(), "invalid_custom_id"),
    "no body": (json.dumps({**line("a"), "body": "x"}).encode(), "invalid_body"),
    "unknown field": (json.dumps({**line("a"), "more": 1}).encode(), "unknown_field"),
    "too long": (b" " * (MAX_LINE_BYTES + 1) + b"{}", "line_too_long"),
}


@pytest.mark.parametrize(("bad", "code"), BAD_LINES.values(), ids=BAD_LINES)
async def test_a_line_that_is_no_request_fails_the_job_by_its_number(
    service: HttpService, monkeypatch: pytest.MonkeyPatch, bad: bytes, code: str
) -> None:
    batch = await created(service, line("first"), b"", bad, line("last"))
    assert (batch["status"], batch["failed_at"]) == ("failed", int(NOW_S))
    (error,) = batch["errors"]["data"]
    assert (error["line"], error["code"]) == (3, code)
    assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)


async def test_an_empty_file_fails_the_job(service: HttpService) -> None:
    for content in (b"", b"\n \n"):
        batch = await created(service, content)
        assert batch["errors"]["data"][0]["code"] == "empty_file"


async def test_a_file_that_is_all_wrong_is_not_read_out() -> None:
    async def content() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"{\n"

    with pytest.raises(InputFailed) as failed:
        async for _ in read_input(content(), ItemKind.COMPLETION):
            pass
    assert [error.line for error in failed.value.errors] == [*range(1, MAX_ERRORS + 1)]


async def test_lines_may_end_as_on_windows_and_begin_with_a_mark(service: HttpService) -> None:
    content = b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(line(name)).encode() for name in ("a", "b"))
    assert (await created(service, content))["request_counts"]["total"] == 2


async def test_what_is_wrong_inside_a_body_ends_that_request_alone(service: HttpService, jobs: MemoryJobs) -> None:
    batch = await created(service, line("a"), line("b", prompt="b", temperature="hot"))
    assert batch["status"] == "in_progress"
    assert batch["request_counts"]["total"] == 2


async def test_several_jobs_are_listed_newest_first_page_by_page(service: HttpService) -> None:
    ids = [(await created(service, line("a")))["id"] for _ in range(3)]
    first = (await service.http.get("/v1/batches", params={"limit": 2})).json()
    assert [batch["id"] for batch in first["data"]] == ids[:0:-1]
    assert (first["object"], first["has_more"], first["first_id"], first["last_id"]) == ("list", True, ids[2], ids[1])
    rest = (await service.http.get("/v1/batches", params={"after": first["last_id"]})).json()
    assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == (ids[:1], False)
    assert (await service.http.get("/v1/batches", params={"limit": 101})).status_code == 400
    assert (await service.http.get("/v1/batches", params={"after": "nobody's"})).status_code == 404


async def test_the_same_key_is_the_same_job(service: HttpService) -> None:
    file_id = await upload(service, json.dumps(line("a")).encode())
    body = {"endpoint": COMPLETIONS, "completion_window": "24h", "input_file_id": file_id}
    headers = {"idempotency-key": "k"}
    first, second = [(await service.http.post("/v1/batches", json=body, headers=headers)).json() for _ in range(2)]
    third = (await service.http.post("/v1/batches", json=body)).json()
    assert first == second
    assert third["id"] != first["id"]


async def test_a_key_gives_its_job_after_its_file_was_deleted(service: HttpService) -> None:
    file_id = await upload(service, json.dumps(line("a")).encode())
    body = {"endpoint": COMPLETIONS, "completion_window": "24h", "input_file_id": file_id}
    headers = {"idempotency-key": "k"}
    first = (await service.http.post("/v1/batches", json=body, headers=headers)).json()
    assert (await service.http.delete(f"/v1/files/{file_id}")).status_code == 200
    assert (await service.http.post("/v1/batches", json=body, headers=headers)).json() == first


async def test_a_long_text_beyond_ascii_fits_a_line_as_it_would_a_request(
    service: HttpService, jobs: MemoryJobs
) -> None:
    text = "日" * ((MAX_LINE_BYTES - 1000) // 3)
    content = json.dumps(line("a", prompt=text), ensure_ascii=False).encode()
    assert (await created(service, content))["request_counts"]["total"] == 1


async def test_what_json_can_not_hold_is_judged_when_the_item_runs(service: HttpService, jobs: MemoryJobs) -> None:
    lines = [line("a", prompt="\ud800"), line("b", prompt="b", user=math.nan), line("c", prompt="c", max_tokens=1)]
    batch = await created(service, "\n".join(map(json.dumps, lines)).encode())
    assert batch["status"] == "in_progress"
    await run_all(service, jobs)
    done = await batch_now(service, batch)
    errors = await file_lines(service, done["error_file_id"])
    assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    messages = [error["response"]["body"]["error"]["message"] for error in errors]
    assert [message.partition(":")[0] for message in messages] == ["prompt", "user"]


async def test_jobs_of_others_are_not_there(jobs: MemoryJobs) -> None:
    set_tenant("one")
    async with http_app(FakeGenerator(), jobs=jobs) as service:
        batch = await created(service, line("a"))
        set_tenant("another")
        for response in (
            await service.http.get(f"/v1/batches/{batch['id']}"),
            await service.http.post(f"/v1/batches/{batch['id']}/cancel"),
            await service.http.get(f"/v1/files/file-output-{batch['id']}/content"),
        ):
            assert response.status_code == 404
        assert (await service.http.get("/v1/batches")).json()["data"] == []
        refused = await create(service, input_file_id=batch["input_file_id"])
        assert error_of(refused)["param"] == "input_file_id"


BAD_JOBS = {
    "another endpoint": ({"endpoint": "/v1/embeddings"}, "endpoint"),
    "minutes": ({"completion_window": "30m"}, "completion_window"),
    "too many hours": ({"completion_window": "721h"}, "completion_window"),
    "no hours": ({"completion_window": "0h"}, "completion_window"),
    "no such file": ({"input_file_id": "file-99"}, "input_file_id"),
    "a number in metadata": ({"metadata": {"a": 1}}, "metadata.a"),
    "much metadata": ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    "unknown field": ({"nonsense": 1}, "nonsense"),
}


@pytest.mark.parametrize(("options", "field"), BAD_JOBS.values(), ids=BAD_JOBS)
async def test_a_job_that_can_not_be_is_refused_by_its_field(
    service: HttpService, options: dict[str, object], field: str
) -> None:
    response = await create(service, line("a"), **options)
    assert (response.status_code, error_of(response)["param"]) == (400, field)
    assert (await service.http.get("/v1/batches")).json()["data"] == []
