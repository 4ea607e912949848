"""OpenAI's Files API over jobs in memory."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from scheduler_svc.caller import set_tenant
from scheduler_svc.jobs.limits import MAX_FILE_BYTES
from tests.support.jobs.memory_jobs import NOW_S, MemoryJobs
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import HttpService, error_of, http_app, running_http

LINES = b'{"a": 1}\n' * 3


@pytest.fixture
def jobs() -> MemoryJobs:
    return MemoryJobs()


@pytest.fixture
async def service(jobs: MemoryJobs) -> AsyncIterator[HttpService]:
    async with http_app(FakeGenerator(), jobs=jobs) as service:
        yield service


async def upload(service: HttpService, content: bytes = LINES, **fields: str) -> httpx2.Response:
    form = {"purpose": "batch", **fields}
    return await service.http.post("/v1/files", data=form, files={"file": ("lines.jsonl", content)})


async def test_an_upload_is_described_listed_read_and_deleted(service: HttpService) -> None:
    file = (await upload(service)).json()
    assert (file["object"], file["bytes"], file["filename"]) == ("file", len(LINES), "lines.jsonl")
    assert (file["purpose"], file["status"], file["created_at"]) == ("batch", "processed", int(NOW_S))
    path = f"/v1/files/{file['id']}"
    assert (await service.http.get(path)).json() == file
    assert (await service.http.get("/v1/files")).json()["data"] == [file]
    assert (await service.http.get(f"{path}/content")).content == LINES
    deleted = await service.http.delete(path)
    assert deleted.json() == {"id": file["id"], "object": "file", "deleted": True}
    for response in (await service.http.get(path), await service.http.delete(path)):
        assert response.status_code == 404
        assert file["id"] in error_of(response)["message"]


async def test_fields_may_come_in_any_order(service: HttpService) -> None:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + LINES,
        b'\r\n--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n',
    ]
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = await service.http.post("/v1/files", content=b"".join(parts), headers=headers)
    assert (response.status_code, response.json()["bytes"]) == (200, len(LINES))


async def test_a_file_says_until_when_it_is_kept(service: HttpService, jobs: MemoryJobs) -> None:
    assert (await upload(service)).json()["expires_at"] is None
    jobs.kept_s = 3600.0
    file = (await upload(service)).json()
    assert file["expires_at"] == file["created_at"] + 3600


@pytest.mark.parametrize("name", ["expires_after[seconds]", "nonsense"])
async def test_what_an_upload_asks_for_and_does_not_get_is_refused_by_name(service: HttpService, name: str) -> None:
    refused = await upload(service, **{name: "3600"})
    assert (refused.status_code, error_of(refused)["param"]) == (400, name)
    assert (await service.http.get("/v1/files")).json()["data"] == []


async def test_files_are_listed_newest_first_page_by_page(service: HttpService) -> None:
    ids = [(await upload(service)).json()["id"] for _ in range(3)]
    first = (await service.http.get("/v1/files", params={"limit": 2})).json()
    assert ([file["id"] for file in first["data"]], first["has_more"]) == (ids[:0:-1], True)
    rest = (await service.http.get("/v1/files", params={"after": first["last_id"]})).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[:1], False)
    assert (await service.http.get("/v1/files", params={"purpose": "fine-tune"})).json()["data"] == []
    assert (await service.http.get("/v1/files", params={"after": "nobody's"})).status_code == 404
    refused = await service.http.get("/v1/files", params={"limit": 0})
    assert (refused.status_code, error_of(refused)["param"]) == (400, "limit")


async def test_files_of_others_are_not_there(jobs: MemoryJobs) -> None:
    set_tenant("one")
    async with http_app(FakeGenerator(), jobs=jobs) as service:
        file_id = (await upload(service)).json()["id"]
        set_tenant("another")
        assert (await service.http.get(f"/v1/files/{file_id}")).status_code == 404
        assert (await service.http.get(f"/v1/files/{file_id}/content")).status_code == 404
        assert (await service.http.delete(f"/v1/files/{file_id}")).status_code == 404
        assert (await service.http.get("/v1/files")).json()["data"] == []


BAD = {
    "another purpose": ({"purpose": "fine-tune"}, {"file": ("a", b"x")}, "purpose: got 'fine-tune'"),
    "no purpose": ({}, {"file": ("a", b"x")}, "purpose: got nothing, allowed is 'batch'"),
    "no file": ({"purpose": "batch"}, {"other": ("a", b"x")}, "file: got nothing"),
    "a text for a file": (
        {"purpose": "batch", "file": "x"},
        {"other": ("a", b"x")},
        "file: got a text, allowed is a file",
    ),
    "two files": ({"purpose": "batch"}, {"file": ("a", b"x"), "more": ("b", b"y")}, "body: got no form"),
    "a long name": ({"purpose": "batch"}, {"file": ("a" * 257, b"x")}, "file: got"),
}


@pytest.mark.parametrize(("form", "files", "message"), BAD.values(), ids=BAD)
async def test_a_form_that_lacks_something_is_refused_by_name(
    service: HttpService, form: dict[str, str], files: dict[str, tuple[str, bytes]], message: str
) -> None:
    response = await service.http.post("/v1/files", data=form, files=files)
    assert response.status_code == 400
    assert error_of(response)["message"].startswith(message)


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"{}", "application/json"), (b"no boundary", "multipart/form-data"), (b"--y", "multipart/form-data; boundary=x")],
)
async def test_what_is_no_form_is_refused(service: HttpService, content: bytes, kind: str) -> None:
    response = await service.http.post("/v1/files", content=content, headers={"content-type": kind})
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


async def test_a_file_may_be_larger_than_other_bodies(jobs: MemoryJobs) -> None:
    content = b"x" * (5 << 20)
    async with running_http(FakeGenerator(), jobs=jobs) as service:
        file = (await upload(service, content)).json()
    assert file["bytes"] == len(content)


async def test_a_file_that_is_too_large_is_refused_and_nothing_is_kept(
    jobs: MemoryJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_FILE_BYTES == 200 << 20
    monkeypatch.setattr("scheduler_svc.api.openai.server.UPLOADS", {"/v1/files": 1 << 20})
    async with running_http(FakeGenerator(), jobs=jobs) as service:
        response = await upload(service, b"x" * (3 << 20))
        assert (response.status_code, error_of(response)["message"]) == (
            413,
            f"body: got too many bytes, allowed are at most {1 << 20}",
        )
        assert (await service.http.get("/v1/files")).json()["data"] == []


async def test_an_upload_that_stops_half_way_is_ended_and_nothing_is_kept(jobs: MemoryJobs) -> None:
    async with running_http(FakeGenerator(), jobs=jobs) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        head = "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x\r\n"
        writer.write(f"{head}content-length: 1000\r\n\r\n--x\r\n".encode())
        await writer.drain()
        async with asyncio.timeout(5):
            while not service.server.num_running:  # noqa: ASYNC110  (nobody tells of it)
                await asyncio.sleep(0.005)
            writer.close()
            while service.server.num_running:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert (await service.http.get("/v1/files")).json()["data"] == []
        assert await reader.read() == b""


async def test_without_a_store_every_path_says_what_to_start_the_service_with() -> None:
    async with http_app(FakeGenerator()) as service:
        for response in (
            await upload(service),
            await service.http.get("/v1/files"),
            await service.http.get("/v1/files/a"),
            await service.http.get("/v1/files/a/content"),
            await service.http.delete("/v1/files/a"),
            await service.http.get("/v1/batches"),
            await service.http.get("/v1/batches/a"),
            await service.http.post("/v1/batches/a/cancel"),
        ):
            assert response.status_code == 400
            assert "--state-dir" in error_of(response)["message"]


async def test_a_store_that_is_gone_is_unavailable_and_says_when_to_come_back(
    service: HttpService, jobs: MemoryJobs
) -> None:
    jobs.is_down = True
    response = await upload(service)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
