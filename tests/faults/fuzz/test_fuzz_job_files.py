"""Files of requests with any content: each line is an item, an error that names it, or nothing; and no harm is done.

a file's bytes, cut anywhere ──▶ read_input   the service's reader: items, or errors by line
                             ──▶ read_items   the command's reader: items, or a refusal by line
a file ──▶ a real service    ──▶ a job that ends, with a line for each of its items
"""

import asyncio
import contextlib
import http.client
import itertools
import json
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qllm.client.cli.batch.lines import LinesRefused, read_items

from scheduler_svc.api.openai.batches.input_lines import MAX_ERRORS, InputFailed, read_input
from scheduler_svc.jobs.job import ItemKind, NewItem
from tests.faults.fuzz.inputs import fuzzing
from tests.faults.fuzz.test_fuzz_requests import FIELDS, JSON
from tests.support.service.live_service import LiveService, free_port, start_service
from tests.support.service.simulated_worker import INSTANT

URL = "/v1/completions"
ENDS_WITHIN_S = 60.0
NAMES = ("custom_id", "method", "url", "body", "else")
GOOD_BODY = {"prompt": "def", "max_tokens": 2}


def line_of(number: int, **changes: object) -> dict[str, object]:
    return {"custom_id": f"item-{number}", "method": "POST", "url": URL, "body": GOOD_BODY, **changes}


BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3).map(lambda changes: {**GOOD_BODY, **changes})
CHANGES = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=2) | st.fixed_dictionaries({"body": BODIES | JSON})
GOOD_LINES = st.builds(line_of, st.integers(0, 5)).map(lambda line: json.dumps(line).encode())
CHANGED_LINES = st.builds(lambda number, changes: line_of(number, **changes), st.integers(0, 30), CHANGES)
LINES = st.one_of(
    GOOD_LINES,
    CHANGED_LINES.map(lambda line: json.dumps(line).encode()),
    CHANGED_LINES.map(lambda line: json.dumps(line, ensure_ascii=False).encode(errors="surrogatepass")),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(lambda line, at: line[: at % (len(line) + 1)], GOOD_LINES, st.integers(0, 1000)),
    st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")),
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n"])
FILES = st.builds(
    lambda mark, lines, last: mark + b"".join(line + end for line, end in lines) + last,
    st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe"]),
    st.lists(st.tuples(LINES, ENDS), max_size=8),
    st.sampled_from([b"", b"{", b'{"custom_id": "a"}']),
)
NESTED = b'{"custom_id":"a","method":"POST","url":"/v1/completions","body":' + b'{"a":' * 5000


async def read(content: bytes, cuts: Sequence[int]) -> tuple[list[NewItem], list[tuple[int, str]]]:
    """Returns a file's items, and its errors by line and code, when it comes in pieces."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        bounds = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
        for begin, end in itertools.pairwise(bounds):
            yield content[begin:end]

    items: list[NewItem] = []
    try:
        async for item in read_input(pieces(), ItemKind.COMPLETION):
            items.append(item)  # noqa: PERF401 - those before an error count
    except InputFailed as failed:
        return items, [(error.line, error.code) for error in failed.errors]
    return items, []


def test_each_line_is_an_item_or_an_error_that_names_it_however_the_file_is_cut() -> None:
    @fuzzing
    @given(FILES, st.lists(st.integers(0, 2000), max_size=6))
    @example(NESTED, [])
    @example(b"", [])
    @example(b"\n" * 1000, [7])
    @example(b"[" * 100_000, [])
    @example(b'{"custom_id":"a","custom_id":"b"}', [])
    @example(json.dumps(line_of(1)).encode().replace(b'"max_tokens": 2', b'"max_tokens": ' + b"9" * 5000), [])
    def reads(content: bytes, cuts: list[int]) -> None:
        items, errors = asyncio.run(read(content, cuts))
        assert (items, errors) == asyncio.run(read(content, []))
        numbers = [number for number, _ in errors]
        assert numbers == sorted(set(numbers))
        assert len(numbers) <= MAX_ERRORS
        assert all(1 <= number <= content.count(b"\n") + 1 for number in numbers)
        assert errors or items, "a file without requests is an error"
        assert len({item.custom_id for item in items}) == len(items)
        for item in items:
            assert isinstance(json.loads(item.body), dict)

    reads()


def test_the_command_sends_a_file_or_names_its_lines() -> None:
    @fuzzing
    @given(FILES)
    @example(NESTED)
    @example(b"[" * 100_000)
    def reads(content: bytes) -> None:
        with contextlib.suppress(LinesRefused):
            items = read_items(content)
            assert len({item.custom_id for item in items}) == len(items) > 0

    reads()


class HttpClient:
    """Asks a service over HTTP, and takes no answer that is a defect."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ENDS_WITHIN_S)
        try:
            connection.request(method, path, body or None, {"content-type": kind} if body else {})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        assert response.status == 200, answer
        return answer

    def upload(self, content: bytes) -> str:
        head = b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
        head += b'content-disposition: form-data; name="file"; filename="f.jsonl"\r\n\r\n'
        form = head + content + b"\r\n--x--\r\n"
        return str(json.loads(self.ask("POST", "/v1/files", form, "multipart/form-data; boundary=x"))["id"])

    def ended_batch(self, file_id: str) -> dict[str, Any]:
        """Makes a job of a file, and waits until it has ended."""
        body = {"input_file_id": file_id, "endpoint": URL, "completion_window": "24h"}
        batch: dict[str, Any] = json.loads(self.ask("POST", "/v1/batches", json.dumps(body).encode()))
        deadline_s = time.monotonic() + ENDS_WITHIN_S
        while batch["status"] not in ("completed", "failed"):
            assert time.monotonic() < deadline_s, batch
            time.sleep(0.01)
            batch = json.loads(self.ask("GET", f"/v1/batches/{batch['id']}"))
        return batch

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        return [json.loads(line) for line in self.ask("GET", f"/v1/files/{file_id}/content").splitlines()]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveService, HttpClient]]:
    directory, port = tmp_path_factory.mktemp("jobs"), free_port()
    options = ("--http-port", str(port), "--state-dir", str(directory / "state"), "--session-ttl-s", "0")
    with start_service("bytes", directory / "log", *options, worker_options=INSTANT) as service:
        yield service, HttpClient(port)
    log = (directory / "log").read_text()
    assert "Traceback" not in log
    assert log.count("worker_ready") == 1


@pytest.mark.slow
def test_a_job_of_any_file_ends_with_a_line_for_each_item(service: tuple[LiveService, HttpClient]) -> None:
    process, client = service[0].process, service[1]

    @fuzzing
    @given(FILES)
    def runs(content: bytes) -> None:
        batch = client.ended_batch(client.upload(content))
        assert process.poll() is None
        if batch["status"] == "failed":
            assert batch["errors"]["data"]
            assert batch["request_counts"]["total"] == 0
            return
        outputs, errors = client.lines(batch["output_file_id"]), client.lines(batch["error_file_id"])
        counts = batch["request_counts"]
        assert (len(outputs), len(errors)) == (counts["completed"], counts["failed"])
        ids = [line["custom_id"] for line in (*outputs, *errors)]
        assert len(set(ids)) == len(ids) == counts["total"] > 0
        assert {line["response"]["status_code"] for line in outputs} <= {200}
        assert {line["response"]["status_code"] for line in errors} <= {400, 404}, errors

    runs()
